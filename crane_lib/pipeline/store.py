"""Results of stages, kept under a key of everything that determines them.

A stage is a function that writes files into a folder. Its key is made of its parameters, the keys of the stages it
reads, the source of its code and the versions of the libraries that do the arithmetic. A folder whose key is the
wanted one is used again; any other is made anew. A folder takes its name only when it is complete.

Sections that run at once may ask for the same stage: the first to ask holds the stage's lock and makes it, the others
wait and find it made. If it fails, they fail with it, and no section tries it again in the same start.

Where torchrun started several processes, all of them ask for the same stages in the same order: the first one makes
them, the others wait and find them made. A stage with a scratch folder is made by all together.
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

from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, locked, read_json, sha256, write_json
from crane_lib.pipeline.code import code_fingerprint
from crane_lib.pipeline.failures import remember, remembered
from crane_lib.pipeline.memory import measuring, threads
from crane_lib.pipeline.threads import on_all_threads

SCHEMA = "crane.stage/1"
RECORD = "stage.json"
SCRATCH = ".scratch"  # folder of what unfinished stages have done so far
SECTION_VARIABLE = "CRANE_SECTION"  # number of the section that a process works for
VISIBLE_SECONDS = 60.0  # network file systems may show a finished stage to other machines only after a while
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


def _make(folder: Path, make: Callable[..., None], given: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Make a stage's folder; returns its record."""
    started = time.perf_counter()
    with atomic(folder) as temporary:
        temporary.mkdir()
        with measuring() as peak:
            make(temporary, **given)
        outputs = {
            str(file.relative_to(temporary)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        taken = {
            "seconds": time.perf_counter() - started,
            "peak_memory_mib": peak.rounded(),
            "peak_gpu_memory_mib": peak.gpu_mib,
            "memory_measure": peak.measure,
            "threads": threads(),
        }
        record = {**about, **taken, "outputs": outputs}
        write_json(temporary / RECORD, record)
    return record


def _several() -> bool:
    """Whether torchrun started several processes; answered without loading torch, for most often it did not."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_first() -> bool:
    if not _several():
        return True
    from crane_lib.relevance.distributed import rank

    return rank() == 0


def _from_first(value: Any) -> Any:
    """The first process's value, in every process, when all have come here."""
    if not _several():
        return value
    from crane_lib.relevance.distributed import share

    return share(value)


def _wait_for(folder: Path, key: str) -> None:
    """Wait until a stage that the first process has finished is to be seen here."""
    patience = time.monotonic() + VISIBLE_SECONDS
    while _complete(folder, key) is None:
        if time.monotonic() > patience:
            raise CraneError(
                f"{folder}: the first process made it, but it is not to be seen from here; --artifacts must be on a "
                "disk that all machines share"
            )
        time.sleep(0.2)


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
        settings: Mapping[str, Any] | None = None,
        scratch: bool = False,
        all_threads: bool = False,
    ) -> Stage:
        """Make a stage or find it made.

        Parameters
        ----------
        name : name of the stage and of its folder
        make : called as ``make(folder, **inputs, **parameters)``, inputs as folders; writes files into ``folder``
        inputs : stages it reads
        parameters : values it is given, JSON-like; they are part of the key
        sources : further things that determine the result (a fingerprint of files from outside), part of the key
        settings : values it is given too, but on which the result does not depend; no part of the key
        scratch : pass ``scratch=``, a folder that outlives a kill, so that the next start goes on from what is there;
            under several processes each calls `make` with it, and only the first one's ``folder`` exists
        all_threads : compute with all threads of this machine and not with the section's share of them; for what
            several sections may be the first to ask for

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
        if _from_first(key) != key:
            raise CraneError(f"{name}: the processes disagree on what to make; run the same code and libraries in all")
        known = self._finished.get(name)
        if known is not None and known.key == key:
            return known
        folder = self.root / name
        record = _from_first(_complete(folder, key))
        reused = record is not None
        if record is None:
            given = {role: stage.folder for role, stage in inputs.items()} | parameters | dict(settings or {})
            about = {
                "schema": SCHEMA,
                "name": name,
                "key": key,
                "section": os.environ.get(SECTION_VARIABLE),
                "inputs": {role: stage.key for role, stage in inputs.items()},
                "parameters": parameters,
                "libraries": self._libraries,
            }
            with self._held(name), on_all_threads() if all_threads else nullcontext():
                record = _from_first(_complete(folder, key))  # another section may have made it meanwhile
                reused = record is not None
                if record is None:
                    record = self._make_unless_failed(folder, make, given, about, scratch=scratch)
        if not _is_first():
            _wait_for(folder, key)
        seconds = record["seconds"]
        unchanged = ", inputs unchanged)" if reused else ""
        self._say(f"{name}: {'reused (' if reused else ''}made in {seconds:.1f} s{unchanged}")
        self._finished[name] = Stage(name, folder, key, reused, seconds)
        return self._finished[name]

    def _held(self, name: str) -> AbstractContextManager[None]:
        """Hold a stage's lock; of several processes that torchrun started the first holds it for all."""
        if not _is_first():
            return nullcontext()
        told = f"{name}: waiting, another section is making it"
        return locked(self.root / f".{name}.lock", waiting=lambda: self._say(told))

    def _make_unless_failed(
        self, folder: Path, make: Callable[..., None], given: dict[str, Any], about: dict[str, Any], *, scratch: bool
    ) -> dict[str, Any]:
        """Make a stage, unless another section of this start has seen it fail; then fail with the same words."""
        name, key = about["name"], about["key"]
        failure = remembered(self.root, name, key)
        if failure is not None:
            self._say(f"{name}: failed in another section, not tried again in this start")
            raise CraneError(failure)
        try:
            return self._make(folder, make, given, about, scratch=scratch)
        except Exception as error:
            remember(self.root, name, key, error)
            raise

    def _make(
        self, folder: Path, make: Callable[..., None], given: dict[str, Any], about: dict[str, Any], *, scratch: bool
    ) -> dict[str, Any]:
        """Make a stage, by all processes together if it has a scratch folder; returns its record."""
        name, record = about["name"], None
        if scratch:
            given["scratch"] = self.root / SCRATCH / f"{name}-{about['key']}"
            given["scratch"].mkdir(parents=True, exist_ok=True)
        try:
            if _is_first():
                record = _make(folder, make, given, about)
            elif scratch:
                make(folder, **given)
        finally:
            if _is_first():
                self._remove_scratch(name, done=record is not None)
        made: dict[str, Any] = _from_first(record)
        return made

    def _remove_scratch(self, name: str, *, done: bool) -> None:
        """Take away a stage's scratch folders: all of them, of earlier attempts too, if it is done, else empty ones."""
        for path in (self.root / SCRATCH).glob(f"{name}-{'[0-9a-f]' * 16}"):
            if done:
                shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):  # other stages may have something there
            (self.root / SCRATCH).rmdir()

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
