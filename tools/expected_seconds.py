"""Write the seconds of a run of this machine into its profile: `expected_seconds` and `calibration_seconds`.

    python -m tools.expected_seconds mini --artifacts artifacts

Do it on a machine with nothing else to do, after `./run_all.sh --profile mini --fresh`. Seconds of training are kept as
they are unless the run trained its models (`--retrain`).
"""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import write_text
from crane_run.runner import Run, fitting_jobs
from crane_run.sections import all_sections
from crane_run.times import MODELS, calibrate
from crane_study import ROOT
from crane_study.checkpoints import is_trained_here
from crane_study.profile import artifacts_root, load_profile


def with_seconds(text: str, seconds: dict[str, float], calibration: float) -> str:
    """Replace the two entries of a profile's text."""
    quoted = {part: part if yaml.safe_load(part) == part else f'"{part}"' for part in seconds}  # not "00", nor "null"
    pairs = ", ".join(f"{quoted[part]}: {value:g}" for part, value in seconds.items())
    for name, value in {"expected_seconds": f"{{{pairs}}}", "calibration_seconds": f"{calibration:.3g}"}.items():
        text, count = re.subn(rf"^{name}:.*$", f"{name}: {value}", text, flags=re.MULTILINE)
        if count != 1:
            raise CraneError(f"expected one line that begins with {name}:, seen {count}")
    return text


def main(
    profile: str,
    artifacts: Annotated[str, typer.Option("--artifacts", metavar="DIR", help="Where the run is.")] = "",
    retrain: Annotated[bool, typer.Option("--retrain", help="Take those of a run with --retrain.")] = False,
) -> None:
    """Write the seconds that a profile's last run took on this machine into configs/<profile>.yaml."""
    loaded = load_profile(profile)
    run_of = loaded.retrained() if retrain else loaded
    sections = all_sections()
    run = Run(run_of, artifacts_root(artifacts or None) / loaded.name, sections, jobs=fitting_jobs(loaded))
    own = run.times.own
    if lacking := [section.number for section in sections if section.number not in own]:
        raise CraneError(f"no run of section {lacking[0]} is recorded here; ./run_all.sh --profile {profile} --fresh")
    told = {name: loaded.expected_seconds[name] for name in MODELS if name in loaded.expected_seconds}
    own |= {} if is_trained_here(run_of) else told
    path = ROOT / "configs" / f"{loaded.name}.yaml"
    calibration = min(calibrate(loaded, places=run.jobs) for _ in range(5))
    write_text(path, with_seconds(path.read_text(encoding="utf-8"), own, calibration))
    print(f"{path}: {len(own)} parts, {sum(own.values()):.0f} s of work")


if __name__ == "__main__":
    try:
        typer.run(main)
    except CraneError as error:
        print(f"expected_seconds: {error}", file=sys.stderr)
        raise SystemExit(1) from error
