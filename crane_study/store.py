"""Results of stages, kept under a key of everything that determines them.

A stage is a function that writes files into a folder. Its key is made of its parameters, the keys of the stages and
the data files that it reads, the source of its code, and the versions of the libraries that compute. A folder with the
wanted key is reused; any other is made again. A folder gets its name only when it is complete.

Sections that run at the same time may ask for the same stage: the first one holds the stage's lock and makes it, the
others wait and reuse it. If it fails, they fail with it, and no section tries it again in the same start.

If torchrun started several processes, all of them ask for the same stages in the same order: the first one makes them,
the others wait for them. A stage with a scratch folder is made by all of them together.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, read_json, write_json
from crane_lib.files import sha256 as file_hash
from crane_study.fingerprints import code_fingerprint, sealed, whole_object
from crane_study.locks import locked, wait_for
from crane_study.machine import measuring, on_all_threads, threads
from crane_study.progress import note_stage

SCHEMA = "crane.stage/1"
RECORD = "stage.json"
SCRATCH = ".scratch"  # folder of the partial results of unfinished stages
SECTION_VARIABLE = "CRANE_SECTION"  # number of the section that a process works for
START_VARIABLE = "CRANE_START"  # id of the start that a process works for; without it no failure is recorded
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pandas", "babel", "lm_eval")


@dataclass(frozen=True)
class Stage:
    """A finished stage: folder, key, whether it was reused, and the seconds it took to make."""

    name: str
    folder: Path
    key: str
    reused: bool
    seconds: float

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


class Store:
    """Folder of a run's stages."""

    def __init__(self, root: Path, *, say: Callable[[str], None] = print) -> None:
        self.root = root
        self._say = say
        self._libraries = library_versions()
        self._finished: dict[str, Stage] = {}  # by name: what this process has made or found already

    def run(
        self,
        name: str,
        make: Callable[..., None],
        /,
        *,
        sources: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        scratch: bool = False,
        all_threads: bool = False,
        **given: Any,
    ) -> Stage:
        """Make a stage by calling ``make(folder, **given, **settings)``, or reuse it.

        `given` holds the stages that it reads, of which `make` gets the folders, and its parameters: JSON-like values,
        dataclasses or pydantic models. Both are part of the key, and so are `sources`, the fingerprints of other files
        that it reads; `settings` are not, because the result does not depend on them.

        With `scratch`, `make` also gets a folder that outlives a kill, so that the next start continues from there;
        under torchrun every process then calls `make`, and only the first one's ``folder`` exists. With `all_threads`
        it computes with all threads of this machine instead of the section's share; for stages that several sections
        may be the first to ask for.
        """
        inputs = {role: stage for role, stage in given.items() if isinstance(stage, Stage)}
        parameters = {role: value for role, value in given.items() if role not in inputs}
        about = {
            "schema": SCHEMA,
            "name": name,
            "inputs": {role: stage.key for role, stage in inputs.items()},
            "parameters": to_jsonable_python(parameters),
            "libraries": self._libraries,
        }
        code = {"code": code_fingerprint([make.__module__]), "function": make.__qualname__}
        key = fingerprint({**about, "sources": dict(sources or {}), **code})
        if _from_first(key) != key:
            raise CraneError(f"{name}: the processes disagree on what to make; run the same code and libraries in all")
        known = self._finished.get(name)
        if known is not None and known.key == key:
            return known
        folder = self.root / name
        record = _from_first(complete(folder, key))
        reused = record is not None
        if record is None:
            about |= {"key": key, "section": os.environ.get(SECTION_VARIABLE)}
            arguments = {role: stage.folder for role, stage in inputs.items()} | parameters | dict(settings or {})
            with self._lock(name), on_all_threads() if all_threads else nullcontext():
                record = _from_first(complete(folder, key))  # another section may have made it meanwhile
                reused = record is not None
                if record is None:
                    record = self._make(make, arguments, about, scratch=scratch)
        if not _is_first():
            wait_for(folder, lambda: complete(folder, key))
        else:
            if reused:
                self._remove_scratch(name, done=True)  # of a start that was killed when the stage had just been made
            note_stage(name, "reused" if reused else "made")
        made = f"made in {record['seconds']:.1f} s"
        self._say(f"{name}: reused ({made}, inputs unchanged)" if reused else f"{name}: {made}")
        self._finished[name] = Stage(name, folder, key, reused, record["seconds"])
        return self._finished[name]

    def _lock(self, name: str) -> AbstractContextManager[None]:
        """Lock a stage; of several processes that torchrun started the first one holds the lock for all."""
        if not _is_first():
            return nullcontext()
        told = f"{name}: waiting, another section is making it"
        return locked(self.root / f".{name}.lock", waiting=lambda: self._say(told))

    def _make(
        self, make: Callable[..., None], given: dict[str, Any], about: dict[str, Any], *, scratch: bool
    ) -> dict[str, Any]:
        """Make a stage and return its record; all processes take part if it has a scratch folder.

        If another section of this start saw it fail, fail with its message.
        """
        name, key, record = about["name"], about["key"], None
        failure = _failure(self.root, name, key)
        if failure is not None:
            self._say(f"{name}: failed in another section, not tried again in this start")
            raise CraneError(failure)
        if scratch:
            given["scratch"] = self.root / SCRATCH / f"{name}-{key}"
            given["scratch"].mkdir(parents=True, exist_ok=True)
        try:
            if _is_first():
                note_stage(name, "making")
                record = _write(self.root / name, make, given, about)
            elif scratch:
                make(self.root / name, **given)
        except Exception as error:
            _keep_failure(self.root, name, key, error)
            raise
        finally:
            if _is_first():
                self._remove_scratch(name, done=record is not None)
        made: dict[str, Any] = _from_first(record)
        return made

    def _remove_scratch(self, name: str, *, done: bool) -> None:
        """Remove a stage's scratch folders: all of them if it is done, else the empty ones."""
        for path in (self.root / SCRATCH).glob(f"{name}-{'[0-9a-f]' * 16}"):
            if done:
                shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):  # not empty while other stages use it
            (self.root / SCRATCH).rmdir()

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all finished stages, by name; without damaged ones."""
        found = [whole_object(path) for path in sorted(self.root.glob(f"*/{RECORD}"))]
        return [record for record in found if record is not None]


def complete(folder: Path, key: str | None, *, sizes_only: bool = False) -> dict[str, Any] | None:
    """Return the record of a folder that was made under `key` and has all its files as they were written, else None.

    With `sizes_only` the files' content is not read. Without a key, it may have been made under any.
    """
    try:
        record = whole_object(folder / RECORD)
        if not record or (record["schema"], record["key"]) != (SCHEMA, key or record["key"]):
            return None
        whole = isinstance(record["seconds"], float) and all(
            (folder / name).stat().st_size == entry["bytes"]
            and (sizes_only or file_hash(folder / name) == entry["sha256"])
            for name, entry in record["outputs"].items()
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # a damaged record or file
        return None
    return record if whole else None


def _write(folder: Path, make: Callable[..., None], given: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Write a stage's folder and return its record."""
    started = time.perf_counter()
    with atomic(folder) as temporary:
        temporary.mkdir()
        with measuring() as peak:
            make(temporary, **given)
        outputs = {
            str(file.relative_to(temporary)): {"bytes": file.stat().st_size, "sha256": file_hash(file)}
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        record = {
            **about,
            "seconds": time.perf_counter() - started,
            "peak_memory_mib": peak.resident_mib,
            "peak_gpu_memory_mib": peak.gpu_mib,
            "memory_measure": peak.measure,
            "threads": threads(),
            "outputs": outputs,
        }
        write_json(temporary / RECORD, record := sealed(record))
    return record


# ---- Several processes


def _several() -> bool:
    """Return whether torchrun started several processes; does not load torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_first() -> bool:
    if not _several():
        return True
    from crane_lib.parallel import rank

    return rank() == 0


def _from_first(value: Any) -> Any:
    """Return the first process's value in every process, once all have arrived here."""
    if not _several():
        return value
    from crane_lib.parallel import share

    return share(value)


# ---- Failures


def _keep_failure(root: Path, stage: str, key: str, error: Exception) -> None:
    """Record the failure of a stage for the other sections of this start."""
    start = os.environ.get(START_VARIABLE)
    if start:
        first = next(iter(str(error).strip().splitlines()), "")
        message = first if isinstance(error, CraneError) else f"{type(error).__name__}: {first}"
        with suppress(CraneError):  # on a full disk the stage's own error is the one to report
            write_json(root / f".{stage}.failed", {"start": start, "key": key, "message": message})


def _failure(root: Path, stage: str, key: str) -> str | None:
    """Return the message of a stage's failure under this key in this start; None if it did not fail."""
    start = os.environ.get(START_VARIABLE)
    if not start:
        return None
    try:
        kept = read_json(root / f".{stage}.failed")
    except CraneError:
        return None
    same = isinstance(kept, dict) and (kept.get("start"), kept.get("key")) == (start, key)
    return str(kept["message"]) if same else None


def forget(root: Path) -> None:
    """Remove the recorded failures of all stages."""
    for path in root.glob(".*.failed"):
        path.unlink(missing_ok=True)


def remove_partial(root: Path) -> None:
    """Remove what interrupted writes left under temporary names."""
    for path in root.rglob(".*.partial*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
