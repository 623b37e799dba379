"""What sections could not do and why, kept in a run's folder for the reports."""

from __future__ import annotations

from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.files import locked, read_json, write_json

NAME = "not_run.json"
LOCK = ".captions.json.lock"  # stands for all files that sections share, which may run at once
Entries = dict[str, dict[str, str]]  # number of a section -> what was not run -> why


def read_not_run(folder: Path) -> Entries:
    """What every section of a run could not do, by its number; empty where all was run.

    Raises
    ------
    CraneError : the file is there but is none of these
    """
    path = folder / NAME
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict) or not all(isinstance(entries, dict) for entries in value.values()):
        raise CraneError(f"{path}: expected an object of objects; delete it and run again")
    return value


def keep_not_run(folder: Path, section: str, *, what: str, reason: str) -> None:
    """Add what a section, named by its number, could not do."""
    with locked(folder / LOCK):
        entries = read_not_run(folder)
        entries.setdefault(section, {})[what] = reason
        write_json(folder / NAME, dict(sorted(entries.items())))


def forget_not_run(folder: Path, section: str) -> None:
    """Take away what a section said earlier; a file that says nothing any more goes, too."""
    if not (folder / NAME).is_file():
        return
    with locked(folder / LOCK):
        entries = read_not_run(folder)
        if entries.pop(section, None) is None:
            return
        if entries:
            write_json(folder / NAME, entries)
        else:
            (folder / NAME).unlink()
