"""Tables of how far runs with equal weights differ by rounding, in Markdown.

    python -m tools.rounding run smoke FOLDER     # runs smoke once for each of SETTINGS, minutes each, and compares
    python -m tools.rounding artifacts/mini OTHER/mini ...

The first run is the reference, the others are the same run with other instruction sets, numbers of threads or sizes of
batches. The first table has a row per run; docs/verification.md shows it. The second gives for each rule of `rounding`
in expected/tolerances.yaml how many numbers it covers, how many of them differ in a run, and the largest differences.
`python -m tools.verdict_noise` compares the same runs at full precision.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import yaml

from crane_run.manifest import read_manifest
from crane_run.references import Reference, reference_of
from crane_study import ROOT
from crane_study.paper.tolerances import load_tolerances
from crane_study.profile import load_profile

SMALLER = 4  # times smaller batches
SETTINGS: dict[str, dict[str, str]] = {
    "one_thread": {},
    "two_threads": {"OMP_NUM_THREADS": "2"},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "without_avx": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "small_batches": {},
}


def smaller_batches(name: str, folder: Path) -> Path:
    """Write the profile with batches a fourth as large, under its own name."""
    profile = load_profile(name).model_dump(mode="json", exclude_unset=True)
    for section, setting in (("relevance", "token_budget"), ("evaluation", "batch_size"), ("open_ended", "batch_size")):
        if section in profile and setting in profile[section]:
            profile[section][setting] = max(1, profile[section][setting] // SMALLER)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(profile, allow_unicode=True), encoding="utf-8")
    return path


def run_all(name: str, folder: Path) -> list[Path]:
    """Run a profile once under each of `SETTINGS`, one section at a time; what is there already is used again."""
    for setting, variables in SETTINGS.items():
        artifacts = folder / setting
        artifacts.mkdir(parents=True, exist_ok=True)
        profile = str(smaller_batches(name, artifacts)) if setting == "small_batches" else name
        command = [str(ROOT / "run_all.sh"), "--profile", profile, "--artifacts", str(artifacts), "--jobs", "1"]
        environment = os.environ | {"CRANE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables
        if (done := subprocess.run(command, env=environment)).returncode:
            raise SystemExit(f"tools.rounding: {setting}: run_all.sh ended with {done.returncode}")
    return [folder / setting / name for setting in SETTINGS]


def differences(ours: Reference, theirs: Reference) -> pd.DataFrame:
    """Every number that both have: place, rule, both values.  One row per number."""
    rules = load_tolerances().reproduction.of_profile(str(theirs.profile["name"])).of_equal_weights()
    rows = []
    for name, table in theirs.tables.items():
        metric_at = table.key.index("metric") if "metric" in table.key else None
        for row, cells in table.rows.items():
            metric = "" if metric_at is None else row.split(" / ")[metric_at]
            found = dict(zip(ours.tables[name].columns, ours.tables[name].rows[row], strict=True))
            for column, reference in zip(table.columns, cells, strict=True):
                value = found[column]
                if isinstance(value, int | float) and isinstance(reference, int | float):
                    rule = rules.rule(table=name, column=column, metric=metric)
                    if rule.compared:
                        rows.append((name, row, column, rule.why, value, reference))
    return pd.DataFrame(rows, columns=["table", "row", "column", "rule", "value", "reference"])


def summary(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Largest differences by rule and run."""
    table: dict[str, dict[str, object]] = defaultdict(dict)
    for run, frame in frames.items():
        off = (frame["value"] - frame["reference"]).abs()
        frame = frame.assign(off=off, relative=off / frame["reference"].abs().clip(lower=1e-3))
        for rule, part in frame.groupby("rule", sort=False):
            worst = part.loc[part["off"].idxmax()]
            table[str(rule)]["numbers"] = len(part)
            table[str(rule)][f"{run}: differ"] = int((part["off"] > 0).sum())
            table[str(rule)][f"{run}: largest"] = f"{worst['off']:.2g} ({worst['reference']:.4g})"
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("tolerance").reset_index()


def overview(frames: dict[str, pd.DataFrame], verdicts: dict[str, dict[str, str]]) -> pd.DataFrame:
    """One row per run: numbers compared, those equal to the digits kept, the largest difference, verdicts that differ.

    `verdicts` has those of the reference under "".
    """
    rows = []
    for run, frame in frames.items():
        off = (frame["value"] - frame["reference"]).abs()
        equal = int((off == 0).sum())
        worst = frame.loc[off.idxmax()]
        place = "none" if not off.max() else f"{off.max():.2g} of {worst['reference']:.4g} ({worst['table']})"
        differ = sum(verdicts[run].get(case) != verdict for case, verdict in verdicts[""].items())
        rows.append((run, len(frame), equal, place, f"{len(verdicts['']) - differ} of {len(verdicts[''])}"))
    return pd.DataFrame(rows, columns=["run", "numbers", "equal to six digits", "largest difference", "equal verdicts"])


def main() -> None:
    """Compare the runs named on the command line with the first of them, or make them first."""
    named = sys.argv[1:]
    if named[:1] == ["run"] and len(named) != 3:
        raise SystemExit("tools.rounding: run needs a profile and a folder, such as run smoke rounding")
    folders = run_all(named[1], Path(named[2])) if named[:1] == ["run"] else [Path(name) for name in named]
    if len(folders) < 2:
        raise SystemExit("tools.rounding: give two or more folders of finished runs, the reference first")
    first, *others = [reference_of(folder, read_manifest(folder)) for folder in folders]
    frames = {
        str(folder.parent.name): differences(other, first) for folder, other in zip(folders[1:], others, strict=True)
    }
    verdicts = {"": first.verdicts} | {run: other.verdicts for run, other in zip(frames, others, strict=True)}
    print(overview(frames, verdicts).to_markdown(index=False), end="\n\n")
    print(summary(frames).to_markdown(index=False))
    for run, frame in frames.items():
        off = (frame["value"] - frame["reference"]).abs()
        worst = frame.assign(off=off).sort_values("off", ascending=False).head(25)
        print(f"\n{run}: the largest\n", worst.to_string(index=False, max_colwidth=80), sep="")


if __name__ == "__main__":
    main()
