"""Software bill of materials: every locked package with its version and hashes, as CycloneDX JSON.

    python -m tools.sbom sbom.cdx.json

It is made by cyclonedx-py from requirements/*.lock, checked against the schema of CycloneDX, and the same for the same
locks. tools/make_archive.py puts it into the archive; it is not a file of the repository, which has the locks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from crane_lib.errors import CraneError
from crane_lib.files import atomic
from crane_study import ROOT

VERSION = "1.6"  # of CycloneDX


def sbom(repository: Path) -> bytes:
    """Make the bill of the locks of a repository; a failure of the tool or of the schema is a CraneError."""
    locks = sorted((repository / "requirements").glob("*.lock"))
    if not locks:
        raise CraneError(f"{repository}: has no requirements/*.lock; a bill of materials is made of lock files")
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--spec-version", VERSION]
    command += ["--no-validate", "--pyproject", str(repository / "pyproject.toml"), "-"]  # checked below
    pins = "".join(path.read_text(encoding="utf-8") for path in locks)
    done = subprocess.run(command, input=pins, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CraneError(f"cyclonedx-py: {reason}; is cyclonedx-bom of requirements/base.lock installed?")
    found = json.loads(done.stdout)
    for component in found["components"]:
        component.pop("description")  # the lines of the lock again
    text = json.dumps(found, indent=1, sort_keys=True)
    _check(text)
    return text.encode()


def _check(text: str) -> None:
    """Refuse what the schema of CycloneDX does not allow."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if problem := JsonStrictValidator(SchemaVersion.from_version(VERSION)).validate_str(text):
        raise CraneError(f"cyclonedx-py: its output is not CycloneDX {VERSION}: {str(problem)[:200]}")


def main(output: Annotated[Path, typer.Argument(help="File to write, such as sbom.cdx.json.")]) -> None:
    """Write the bill of materials of the lock files."""
    try:
        content = sbom(ROOT)
        with atomic(output) as partial:
            partial.write_bytes(content)
    except CraneError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from error
    print(f"{output}: {len(json.loads(content)['components'])} packages, CycloneDX {VERSION}")


if __name__ == "__main__":
    typer.run(main)
