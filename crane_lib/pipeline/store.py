"""Results of stages, kept under a key of everything that determines them.

A stage is a function that writes files into a folder. Its key is made of its parameters, the keys of the stages it
reads, the source of its code and the versions of the libraries that do the arithmetic. A folder whose key is the
wanted one is used again; any other is made anew. A folder takes its name only when it is complete.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, read_json, sha256, write_json
from crane_lib.pipeline.code import code_fingerprint

SCHEMA = "crane.stage/1"
RECORD = "stage.json"
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pandas", "babel", "lm_eval")


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, its key, whether it was used again and how long it took to make."""

    name: str
    folder: Path
    key: str
    reused: bool
    seconds: float

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def library_versions() -> dict[str, str]:
    """Versions of the libraries that do the arithmetic."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _complete(folder: Path, key: str) -> dict[str, Any] | None:
    """The folder's record if it was made under `key` and every file of it is there, else None."""
    try:
        record = read_json(folder / RECORD)
    except CraneError:
        return None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or record.get("key") != key:
        return None
    for name, entry in record["outputs"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            return None
    return record


class Store:
    """Folder of a run's stages."""

    def __init__(self, root: Path, *, say: Callable[[str], None] = print) -> None:
        self.root = root
        self._say = say
        self._libraries = library_versions()
        self._finished: dict[str, Stage] = {}  # by name, what this process has made or found already

    def run(
        self,
        name: str,
        make: Callable[..., None],
        *,
        inputs: Mapping[str, Stage] | None = None,
        parameters: Mapping[str, Any] | None = None,
        sources: Mapping[str, Any] | None = None,
    ) -> Stage:
        """Make a stage or find it made.

        Parameters
        ----------
        name : name of the stage and of its folder
        make : called as ``make(folder, **inputs, **parameters)``, inputs as folders; writes files into ``folder``
        inputs : stages it reads
        parameters : values it is given, JSON-like; they are part of the key
        sources : further things that determine the result (a fingerprint of files from outside), part of the key

        Returns
        -------
        the finished stage; a message says whether it was reused or how long it took
        """
        inputs, parameters = dict(inputs or {}), dict(parameters or {})
        key = fingerprint(
            {
                "stage": name,
                "inputs": {role: stage.key for role, stage in inputs.items()},
                "parameters": parameters,
                "sources": dict(sources or {}),
                "code": code_fingerprint([make.__module__]),
                "function": make.__qualname__,
                "libraries": self._libraries,
            }
        )
        known = self._finished.get(name)
        if known is not None and known.key == key:
            return known
        folder = self.root / name
        record = _complete(folder, key)
        if record is not None:
            self._say(f"{name}: reused (made in {record['seconds']:.1f} s, inputs unchanged)")
            self._finished[name] = Stage(name, folder, key, True, record["seconds"])
            return self._finished[name]
        started = time.perf_counter()
        with atomic(folder) as temporary:
            temporary.mkdir()
            make(temporary, **{role: stage.folder for role, stage in inputs.items()}, **parameters)
            outputs = {
                str(file.relative_to(temporary)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            }
            seconds = time.perf_counter() - started
            write_json(
                temporary / RECORD,
                {
                    "schema": SCHEMA,
                    "name": name,
                    "key": key,
                    "inputs": {role: stage.key for role, stage in inputs.items()},
                    "parameters": parameters,
                    "libraries": self._libraries,
                    "seconds": seconds,
                    "outputs": outputs,
                },
            )
        self._say(f"{name}: made in {seconds:.1f} s")
        self._finished[name] = Stage(name, folder, key, False, seconds)
        return self._finished[name]

    def records(self) -> list[dict[str, Any]]:
        """Records of all finished stages, by name."""
        return [read_json(path) for path in sorted(self.root.glob(f"*/{RECORD}"))]


def remove_partial(root: Path) -> None:
    """Take away what interrupted writes left under temporary names."""
    for path in root.rglob(".*.partial*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
