"""Show that crane verify finds one changed hyperparameter in every section: a Markdown table.

    python -m tools.sensitivity artifacts/smoke

For every section one setting of the run's profile is changed a little, the run is repeated with it (what does not
depend on it is reused), and its numbers are compared with the run's own, with the tolerances for equal weights. The
table counts the numbers and texts of that section that are not as they were, beyond their tolerance;
docs/verification.md shows it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from crane_run.manifest import read_manifest
from crane_run.references import reference_of
from crane_run.verify import compare
from crane_study import ROOT
from crane_study.paper.tolerances import load_tolerances

CHANGES: dict[str, tuple[str, Any]] = {
    "00": ("evaluation.target_delimiter.zh", " "),
    "01": ("relevance.max_length", 60),
    "02": ("selection.kurtosis_threshold", 1.1),
    "03": ("selection.lape.threshold_quantile", 0.9),
    "04": ("evaluation.target_delimiter.en", ""),
    "05": ("open_ended.max_new_tokens", 8),
    "06": ("controls.documents", 9),
    "07": ("evaluation.chat_target_delimiter", ""),
    "08": ("evaluation.target_delimiter.en", ""),
    "09": ("selection.kurtosis_threshold", 1.1),
    "10": ("ground_truth.documents", 30),
    "11": ("steering.max_new_tokens", 9),
}


def changed(profile: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Profile with one setting changed."""
    *path, last = place.split(".")
    part = profile
    for name in path:
        part = part[name]
    if part[last] == value:
        raise SystemExit(f"tools.sensitivity: {place} is {value!r} already")
    part[last] = value
    return profile


def beyond(run: Path, section: str, place: str, value: Any) -> tuple[int, int]:
    """Numbers of a section beyond their tolerance, and all of its numbers, after one change."""
    with TemporaryDirectory() as folder:
        other = shutil.copytree(run, Path(folder) / run.name)
        profile = yaml.safe_load((run / "profile.yaml").read_text(encoding="utf-8"))
        path = Path(folder) / f"{run.name}.yaml"
        path.write_text(yaml.safe_dump(changed(profile, place, value), allow_unicode=True), encoding="utf-8")
        command = [str(ROOT / "run_all.sh"), "--profile", str(path), "--artifacts", folder, "--only", section]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"tools.sensitivity: {place}: {done.stdout}{done.stderr}")
        ours, theirs = (reference_of(one, read_manifest(one)) for one in (other, run))
        rules = load_tolerances().reproduction.of_profile(run.name)
        own = {
            name: table
            for name, table in theirs.tables.items()
            if name.startswith((f"tables/{section}_", "claims.json" if section == "09" else f"tables/{section}_"))
        }
        found = compare(theirs.model_copy(update={"tables": own}), ours, lacking={}, rules=rules)
        names = {one.table for one in found.differences} & set(own)
        return sum(one.table in names for one in found.differences), found.numbers


def main() -> None:
    """Change one setting per section of the run named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("tools.sensitivity: give the folder of a finished run, such as artifacts/smoke")
    print("| section | setting | changed to | beyond tolerance | of numbers |\n|---|---|---|---|---|")
    for section, (place, value) in CHANGES.items():
        print(
            "| {} | `{}` | {!r} | {} | {} |".format(
                section, place, value, *beyond(Path(sys.argv[1]), section, place, value)
            )
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
