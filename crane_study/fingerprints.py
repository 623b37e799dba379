"""Fingerprints of what results depend on: the code of a stage, and the user's own or published models."""

from __future__ import annotations

import ast
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, sha256, write_json
from crane_study import ROOT
from crane_study.locks import locked
from crane_study.progress import ProgressTask, progress

_PACKAGES = ("crane_lib", "crane_study")  # whose code a stage may depend on
HASHES = ".hashes.json"  # in the folder of all runs: --fresh keeps it, and no manifest lists it
PATIENCE = 10.0  # seconds of reading before a bar is shown
_SETTLED = 2.0  # seconds; a file changed twice within one tick of the clock has the same time after both
SEAL = "seal"  # of a JSON object: fingerprint of the rest of it
_BLOCK = 1 << 22
_MIB = 1 << 20


def source_file(module: str) -> Path | None:
    """Return the source file of a module of crane_lib or crane_study; None for any other module."""
    parts = module.split(".")
    if parts[0] not in _PACKAGES:
        return None
    base = ROOT.joinpath(*parts)
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def imported_modules(source: str) -> set[str]:
    """Return the modules of crane_lib and crane_study that a piece of Python imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # "from package import x": x may be a module.
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(name for name in names if source_file(name) is not None)
    return found


@cache
def _direct(module: str) -> tuple[str, ...]:
    file = source_file(module)
    return tuple(sorted(imported_modules(file.read_text(encoding="utf-8")))) if file else ()


_digest = cache(sha256)


def closure(modules: Iterable[str]) -> list[str]:
    """Return the modules and all that they import of crane_lib and crane_study, directly or not, sorted."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen and source_file(module) is not None:
            seen.add(module)
            waiting += _direct(module)
    return sorted(seen)


def code_fingerprint(modules: Iterable[str]) -> str:
    """Return a hash of the source of the modules and of everything in their `closure`."""
    files = ((module, source_file(module)) for module in closure(modules))
    lines = [f"{module}:{_digest(file)}\n" for module, file in files if file is not None]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with the seal of its content."""
    rest = {name: entry for name, entry in value.items() if name != SEAL}
    return {**rest, SEAL: fingerprint(rest)}


def whole_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file if it is as it was sealed; None if it is missing, damaged or has no seal."""
    with suppress(CraneError, NotADirectoryError):
        value = read_json(path)
        if isinstance(value, dict) and value == sealed(value):
            return value
    return None


class Hashes:
    """SHA-256 of files, remembered by path, size, times of change and inode in the folder of all runs.

    If the folder is not writable, they are remembered in this process only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_here: dict[str, Any] = {}

    def directory(self, path: Path) -> str:
        """Return a short hash of a directory: names and content of its files, without its subfolders."""
        files = {file.name: file.resolve() for file in sorted(path.iterdir()) if file.is_file()}
        hashes = self._of(set(files.values()))
        lines = [f"{name}:{hashes[file]}\n" for name, file in files.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    @property
    def _writable(self) -> bool:
        return os.access(self._folder, os.W_OK)

    def _of(self, files: set[Path]) -> dict[Path, str]:
        known = self._known(files)
        if files - known.keys():
            with locked(self._folder / ".hashes.lock") if self._writable else nullcontext():
                known = self._known(files)  # another section may have read them meanwhile
                for file, entry in _read(sorted(files - known.keys())).items():
                    known[file] = entry["sha256"]
                    self._remember(file, entry)
        return known

    def _remember(self, file: Path, entry: dict[str, Any]) -> None:
        if {**entry, **_state(file)} != entry:
            return
        self._read_here[str(file)] = entry
        if time.time() - entry["changed"] / 1e9 > _SETTLED and self._writable:
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
    """Return what changes with the content of a file; unlike the first time, the second cannot be set back."""
    about = file.stat()
    times = {"modified": about.st_mtime_ns, "changed": about.st_ctime_ns}
    return {"size": about.st_size, **times, "inode": about.st_ino}


def _read(files: list[Path]) -> dict[Path, dict[str, Any]]:
    """Return the SHA-256 of each file, and its state before it was read."""
    total = sum(file.stat().st_size for file in files)
    with progress("Hashing the model's files (MiB)", total // _MIB, delay=PATIENCE) as bar:
        return {file: {**_state(file), "sha256": _sha256(file, bar)} for file in files}


def _sha256(file: Path, bar: ProgressTask) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            bar.advance(len(block) // _MIB)
    return digest.hexdigest()
