"""Failures of stages, remembered for one start, so that no section repeats what another has seen fail."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json

START_VARIABLE = "CRANE_START"  # id of the start that a process works for; without one nothing is remembered


def remember(root: Path, stage: str, key: str, error: Exception) -> None:
    """Keep a stage's failure for the other sections of this start."""
    start = os.environ.get(START_VARIABLE)
    if start:
        with suppress(CraneError):  # on a full disk the stage's own error is the one to tell
            write_json(_file(root, stage), {"start": start, "key": key, "message": _line(error)})


def remembered(root: Path, stage: str, key: str) -> str | None:
    """What a stage failed with under this key in this start, None if it did not."""
    start = os.environ.get(START_VARIABLE)
    if not start:
        return None
    try:
        kept = read_json(_file(root, stage))
    except CraneError:
        return None
    same = isinstance(kept, dict) and (kept.get("start"), kept.get("key")) == (start, key)
    return str(kept["message"]) if same else None


def forget(root: Path) -> None:
    """Take the failures of all stages away."""
    for path in root.glob(".*.failed"):
        path.unlink(missing_ok=True)


def _file(root: Path, stage: str) -> Path:
    return root / f".{stage}.failed"


def _line(error: Exception) -> str:
    """An error in one line, as the section that met it first is told to have failed."""
    said = str(error).strip().splitlines()
    if isinstance(error, CraneError):
        return said[0] if said else ""
    return f"{type(error).__name__}: {said[0] if said else ''}"
