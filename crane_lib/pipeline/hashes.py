"""Hashes of the user's large files, each of them read once on this machine until it changes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import locked, read_json, write_json
from crane_lib.progress import Task

HASHES = ".hashes.json"  # this machine's own record, beside the runs: --fresh leaves it, and no manifest has it
PATIENCE = 10.0  # seconds of reading after which a bar is shown
_SETTLED = 2.0  # seconds; a file that is changed twice within a tick of the clock has one time for both
_BLOCK = 1 << 22
_MIB = 1 << 20


class Hashes:
    """SHA-256 of files, remembered by path, size, times of change and inode.

    Parameters
    ----------
    folder : of all runs; where it cannot be written to, hashes are remembered in this process only
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_here: dict[str, Any] = {}

    def directory(self, path: Path) -> str:
        """Short hash of a directory: names and whole content of its files, but not of its subfolders."""
        files = {file.name: file.resolve() for file in sorted(path.iterdir()) if file.is_file()}
        hashes = self._of(set(files.values()))
        lines = [f"{name}:{hashes[file]}\n" for name, file in files.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def _of(self, files: set[Path]) -> dict[Path, str]:
        known = self._known(files)
        if files - known.keys():
            with self._held():
                known = self._known(files)  # another section may have read them meanwhile
                for file, entry in _read(sorted(files - known.keys())).items():
                    known[file] = entry["sha256"]
                    self._remember(file, entry)
        return known

    def _held(self) -> AbstractContextManager[None]:
        """Let others wait rather than read the same files."""
        return locked(self._folder / ".hashes.lock") if os.access(self._folder, os.W_OK) else nullcontext()

    def _remember(self, file: Path, entry: dict[str, Any]) -> None:
        if {**entry, **_state(file)} != entry:
            return
        self._read_here[str(file)] = entry
        if time.time() - entry["changed"] / 1e9 > _SETTLED and os.access(self._folder, os.W_OK):
            write_json(self._folder / HASHES, {**self._all(), str(file): entry})

    def _known(self, files: Iterable[Path]) -> dict[Path, str]:
        entries, known = self._all(), {}
        for file in files:
            entry = entries.get(str(file))
            if isinstance(entry, dict) and entry == {**_state(file), "sha256": entry.get("sha256")}:
                known[file] = str(entry["sha256"])
        return known

    def _all(self) -> dict[str, Any]:
        with suppress(CraneError):
            found = read_json(self._folder / HASHES)
            if isinstance(found, dict):
                return {**found, **self._read_here}
        return self._read_here


def _state(file: Path) -> dict[str, int]:
    """What is another if a file's content is; the second time cannot be set back, as `touch` does with the first."""
    about = file.stat()
    return {
        "size": about.st_size,
        "modified": about.st_mtime_ns,
        "changed": about.st_ctime_ns,
        "inode": about.st_ino,
    }


def _read(files: list[Path]) -> dict[Path, dict[str, Any]]:
    """State before it is read, and SHA-256, of each file."""
    total = sum(file.stat().st_size for file in files)
    bar = _LateBar("Hashing the model's files (MiB)", total // _MIB)
    try:
        return {file: {**_state(file), "sha256": _sha256(file, bar)} for file in files}
    finally:
        bar.close()


def _sha256(file: Path, bar: _LateBar) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            bar.advance(len(block))
    return digest.hexdigest()


class _LateBar:
    """A progress bar that shows only when the work takes long; steps are bytes, shown as MiB."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self._total = description, total
        self._started, self._bytes = time.monotonic(), 0
        self._task: Task | None = None

    def advance(self, size: int) -> None:
        self._bytes += size
        if self._task is not None:
            self._task.advance(self._bytes // _MIB - self._task.done)
        elif time.monotonic() - self._started >= PATIENCE:
            self._task = Task(self._description, self._total)
            self._task.skip(self._bytes // _MIB)

    def close(self) -> None:
        if self._task is not None:
            self._task.close()
