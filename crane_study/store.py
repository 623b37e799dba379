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

import ast
import hashlib
import importlib.metadata
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, read_json, sha256, write_json
from crane_study import ROOT
from crane_study.locks import locked
from crane_study.machine import measuring, on_all_threads, threads
from crane_study.progress import Task

_PACKAGES = ("crane_lib", "crane_study")  # whose code a stage may depend on


def source_file(module: str) -> Path | None:
    """Source file of a module of the library, None for anything else."""
    parts = module.split(".")
    if parts[0] not in _PACKAGES:
        return None
    base = ROOT.joinpath(*parts)
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported_modules(source: str) -> set[str]:
    """Names of the library's modules that a piece of Python imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # "from package import x": x may be a module of its own.
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(name for name in names if source_file(name) is not None)
    return found


@cache
def _direct(module: str) -> tuple[str, ...]:
    file = source_file(module)
    return tuple(sorted(imported_modules(file.read_text(encoding="utf-8")))) if file else ()


def closure(modules: Iterable[str]) -> list[str]:
    """The modules and everything of the library that they import, directly or not, sorted."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen and source_file(module) is not None:
            seen.add(module)
            waiting += _direct(module)
    return sorted(seen)


@cache
def _digest(file: Path) -> str:
    """Hash of a source file, of the data files that lie beside it, and of those in ``expected/`` that it names."""
    source = file.read_bytes()
    digest = hashlib.sha256(source)
    named = [path for path in (ROOT / "expected").glob("*.*") if path.name.encode() in source]
    for data in sorted([*file.parent.glob("*.yaml"), *named]):
        digest.update(data.read_bytes())
    return digest.hexdigest()


def code_fingerprint(modules: Iterable[str]) -> str:
    """Hash of the source of `modules` and of all of the library they depend on."""
    digest = hashlib.sha256()
    for module in closure(modules):
        file = source_file(module)
        if file is not None:
            digest.update(f"{module}:{_digest(file)}\n".encode())
    return digest.hexdigest()[:16]


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
    from crane_lib.parallel import rank

    return rank() == 0


def _from_first(value: Any) -> Any:
    """The first process's value, in every process, when all have come here."""
    if not _several():
        return value
    from crane_lib.parallel import share

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
