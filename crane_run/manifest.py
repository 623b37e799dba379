"""manifest.json: what a run was made with and what it made."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_json
from crane_study import ROOT
from crane_study.hub import is_local
from crane_study.machine import describe_machine
from crane_study.profile import EmbeddedSource, HubModel, LocalSource, Profile
from crane_study.store import RECORD, Store

SCHEMA = "crane.manifest/2"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0)]
Mebibytes = Annotated[float, Field(gt=0)] | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Image(_Part):
    """The container image, as its environment names it."""

    name: str | None
    digest: str | None


class Gpu(_Part):
    """One GPU."""

    name: str
    memory_mib: int


class Machine(_Part):
    """Processor, cores, memory, threads and GPUs."""

    system: str
    processor: str
    cores: int | None
    usable_cores: int | None  # that the process may run on
    core_limit: float | None  # that a container grants
    memory_bytes: int
    memory_limit_bytes: int | None
    thread_settings: dict[str, str]
    gpus: list[Gpu]
    gpu_driver: str | None
    cuda_runtime: str | None  # that torch was built with


class Difference(_Part):
    """A package that is not the locked one."""

    locked: str
    installed: str


class Locks(_Part):
    """Lock files by their hashes, and the packages that are not as they say."""

    files: dict[str, Sha256]
    differing: dict[str, Difference]


class Model(_Part):
    """Where a model comes from."""

    kind: Literal["trained here", "directory", "hub"]
    stage: str | None = None
    key: str | None = None
    path: str | None = None
    id: str | None = None
    revision: str | None = None
    commit: str | None = None
    fingerprint: str | None = None
    weights: dict[str, Sha256]


class SectionRecord(BaseModel):
    """How a section went; the runner may say more."""

    model_config = ConfigDict(extra="allow", frozen=True)

    section: str
    title: str
    status: str
    error: str | None
    key: str
    seconds: Seconds
    threads: int | None = None  # that it computed with
    jobs: int | None = None  # sections at once, at most, when it ran
    peak_memory_mib: Mebibytes = None
    outputs: list[str]


class StageRecord(_Part):
    """A stage: its key, what it took, the hash of its record and of everything it wrote."""

    name: str
    key: str
    inputs: dict[str, str]
    seconds: Seconds
    peak_memory_mib: Mebibytes
    peak_gpu_memory_mib: float | None
    memory_measure: str | None
    threads: int | None
    record: Sha256
    outputs: dict[str, Sha256]


class Manifest(_Part):
    """What a run was made with and what it made."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["crane.manifest/2"] = Field(alias="schema")
    written_at: str
    profile: dict[str, Any]
    random_seed: int
    seeds: dict[str, int]
    commit: str | None
    uncommitted_changes: bool | None
    commit_from: str | None
    image: Image | None
    python: str
    packages: dict[str, str | None]
    locks: Locks
    machine: Machine
    models: dict[str, Model]
    data: dict[str, Any]
    sections: list[SectionRecord]
    stages: list[StageRecord]
    outputs: dict[str, Sha256]


COMMIT_VARIABLE = "CRANE_COMMIT"  # set where there is no git: in the container image
IMAGE_VARIABLE = "CRANE_IMAGE"
DIGEST_VARIABLE = "CRANE_IMAGE_DIGEST"
ARCHIVED = ".git_archival.txt"  # git fills it in when it packs an archive
_DIRTY = "-dirty"
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "accelerate",
    "lm_eval",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "seaborn",
    "matplotlib",
    "babel",
    "papermill",
    "jupyterlab",
)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_commit() -> dict[str, Any]:
    """``commit`` and ``uncommitted_changes`` of the source, and ``commit_from``: git, the image, an archive, or None.

    A git repository that only contains the source (an archive unpacked inside another project) is not believed.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT:
        status = _git("status", "--porcelain")
        changed = None if status is None else bool(status)
        return {"commit": _git("rev-parse", "HEAD"), "uncommitted_changes": changed, "commit_from": "git"}
    given = os.environ.get(COMMIT_VARIABLE, "").strip()
    if given:
        changed = given.endswith(_DIRTY)
        return {
            "commit": given.removesuffix(_DIRTY),
            "uncommitted_changes": changed,
            "commit_from": COMMIT_VARIABLE,
        }
    try:
        found = re.search(r"^commit: ([0-9a-f]{40,64})$", (ROOT / ARCHIVED).read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    source = ARCHIVED if found else None
    return {"commit": found[1] if found else None, "uncommitted_changes": None, "commit_from": source}


def describe_image() -> dict[str, str | None] | None:
    """Name and digest of the container image, as the environment tells them; None outside of one."""
    name, digest = os.environ.get(IMAGE_VARIABLE) or None, os.environ.get(DIGEST_VARIABLE) or None
    return {"name": name, "digest": digest} if name or digest else None


def missing_in_container() -> str:
    """One line on what a manifest made in this container cannot name and how to tell it; empty where nothing lacks."""
    image = describe_image()
    if image is None:
        return ""
    ways = {
        "the commit": (describe_commit()["commit"], "build the image with --build-arg COMMIT=..."),
        "the image's digest": (image["digest"], f"start the container with -e {DIGEST_VARIABLE}=..."),
    }
    lacking = {what: way for what, (known, way) in ways.items() if not known}
    if not lacking:
        return ""
    return (
        f"note: the manifest will not name {' nor '.join(lacking)}; to have it there, {' and '.join(lacking.values())} "
        "(README.md, section Docker, has the commands)"
    )


def installed_version(package: str) -> str | None:
    """Version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_packages() -> dict[str, str | None]:
    """Versions of the packages that the results rest on."""
    return {package: installed_version(package) for package in _PACKAGES}


def describe_locks(folder: Path = ROOT / "requirements") -> dict[str, Any]:
    """Hashes of the lock files and every locked package whose installed version is another.

    With both, the version of every installed package can be told from the repository. Packages of the lock that are
    not installed (another system's, another build of torch) are left out; the local part of a version, such as
    ``+cpu``, is no difference.
    """
    differing = {}
    files = sorted(folder.glob("*.lock"))
    for path in files:
        for name, locked in re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            found = installed_version(name)
            if found is not None and found.partition("+")[0] != locked.partition("+")[0]:
                differing[name] = {"locked": locked, "installed": found}
    return {"files": {path.name: sha256(path) for path in files}, "differing": dict(sorted(differing.items()))}


_WEIGHTS = (".safetensors", ".bin")
_SEED = "random_seed"
Records = Mapping[str, Mapping[str, Any]]  # stage -> its record


def describe_models(profile: Profile, records: Records) -> dict[str, dict[str, Any]]:
    """Of the base and the chat model: where it comes from, its revision or fingerprint, and hashes of its weights."""
    source = profile.source
    if isinstance(source, EmbeddedSource):
        return {name: _trained(records[f"{name}_model"]) for name in ("base", "chat") if f"{name}_model" in records}
    found = {}
    for name, given in (("base", source.base_model), ("chat", source.chat_model)):
        if given is None:
            continue
        about = _of_hub(given) if isinstance(given, HubModel) else _directory(given)
        # Under this fingerprint of the directory the stages were made.
        found[name] = {**about, "fingerprint": _input_key(records, f"relevance_{name}", "model")}
    return found


def _trained(record: Mapping[str, Any]) -> dict[str, Any]:
    outputs = record["outputs"]
    weights = {file: entry["sha256"] for file, entry in outputs.items() if file.endswith(_WEIGHTS)}
    return {"kind": "trained here", "stage": record["name"], "key": record["key"], "weights": weights}


def _input_key(records: Records, stage: str, role: str) -> str | None:
    key = records.get(stage, {}).get("inputs", {}).get(role)
    return str(key) if key is not None else None


def _directory(path: Path) -> dict[str, Any]:
    return {"kind": "directory", "path": str(path), "weights": weight_hashes(path)}


def _of_hub(model: HubModel) -> dict[str, Any]:
    """A model of the hub as it lies in the cache; nobody is asked."""
    if is_local(model.id):
        return _directory(Path(model.id))
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model.id, revision=model.revision, local_files_only=True))
    except (OSError, ValueError):
        folder = None
    return {
        "kind": "hub",
        "id": model.id,
        "revision": model.revision,
        "commit": folder.name if folder is not None else None,
        "weights": weight_hashes(folder) if folder is not None else {},
    }


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of weights in a model directory.

    In the hub's cache such a file is a link to one whose name is that hash; gigabytes need not be read again.
    """
    hashes = {}
    for path in sorted(folder.glob("*")):
        if path.suffix in _WEIGHTS and path.is_file():
            stored = path.resolve()
            named = stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name)
            hashes[path.name] = stored.name if named else file_hash(stored)
    return hashes


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read once in this process unless it changes."""
    about = path.stat()
    return _hash(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)


def describe_data(profile: Profile, stages: Path, records: Records) -> dict[str, Any]:
    """Texts and questions: where they come from, revisions, and hashes of the samples that were used."""
    source = profile.source
    about: dict[str, Any] = {}
    if isinstance(source, EmbeddedSource):
        about["source"] = {"kind": "embedded", "package": "babel", "version": installed_version("babel")}
    elif isinstance(source, LocalSource):
        files = {**source.texts, **{f"questions.{name}": path for name, path in (source.questions or {}).items()}}
        about["source"] = {"kind": "files", "sha256": _hashes(files)}
    else:
        about["source"] = {"kind": "hub", **_written(stages / "corpus" / "sample.json")}
    if profile.evaluation.tasks:
        about["benchmarks"] = _written(stages / "benchmarks" / "benchmarks.json")
    if profile.open_ended.questions:
        about["open_questions"] = {"sha256": _hashes(profile.open_ended.questions)}
    if profile.paper.lape_list is not None:
        about["lape_list"] = {"sha256": _hashes({"neurons": profile.paper.lape_list})}
    samples = {name: record for name, record in records.items() if name in ("corpus", "benchmarks")}
    about["samples"] = {
        f"stages/{name}/{file}": entry["sha256"]
        for name, record in samples.items()
        for file, entry in record["outputs"].items()
    }
    return about


def _hashes(files: Mapping[str, Path]) -> dict[str, str | None]:
    """Hash of each file by its role; None for a file that is gone."""
    return {role: file_hash(path) if path.is_file() else None for role, path in sorted(files.items())}


def _written(path: Path) -> dict[str, Any]:
    """What a stage wrote about its sources, nothing where it has not run."""
    try:
        value = read_json(path)
    except CraneError:
        return {}
    return value if isinstance(value, dict) else {}


def describe_seeds(profile: Profile, records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Every random seed by the place that names it: of the profile, and of the stages where those have others."""
    seeds = dict(_seeds(profile.resolved(), ""))
    for record in records:
        for place, seed in _seeds(record.get("parameters", {}), f"stages/{record['name']}"):
            if seed not in seeds.values():  # the profile's own, handed on
                seeds[place] = seed
    return seeds


def _seeds(value: Any, place: str) -> Iterable[tuple[str, int]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            where = f"{place}.{name}" if place else str(name)
            if str(name).endswith(_SEED) and isinstance(inner, int):
                yield where, inner
            else:
                yield from _seeds(inner, where)


NAME = "manifest.json"
STAGES = "stages"
LOGS = "logs"  # what was said on the way; written to while the run is already over, so not hashed


class DamagedManifestError(Exception):
    """The manifest is there but is not one; the message says why."""


def write_manifest(folder: Path, profile: Profile, sections: Sequence[Mapping[str, Any]]) -> None:
    """Write manifest.json: source, packages, machine, models, data, seeds, times, memory, hashes of all outputs.

    Of the environment only named variables are read, none of which holds a secret.

    Parameters
    ----------
    folder : the run's folder
    sections : a record a section, as the runner keeps them
    """
    stages = folder / STAGES
    records = {record["name"]: record for record in Store(stages).records()}
    manifest = {
        "schema": SCHEMA,
        "written_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "profile": profile.resolved(),
        "random_seed": profile.random_seed,
        "seeds": describe_seeds(profile, records.values()),
        **describe_commit(),
        "image": describe_image(),
        "python": platform.python_version(),
        "packages": describe_packages(),
        "locks": describe_locks(),
        "machine": describe_machine(),
        "models": describe_models(profile, records),
        "data": describe_data(profile, stages, records),
        "sections": [dict(section) for section in sections],
        "stages": [_stage(stages, record) for record in records.values()],
        "outputs": {str(path.relative_to(folder)): sha256(path) for path in output_files(folder)},
    }
    Manifest.model_validate(manifest)
    write_json(folder / NAME, manifest)


def _stage(stages: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    name = record["name"]
    return {
        "name": name,
        "key": record["key"],
        "inputs": record["inputs"],
        "seconds": round(record["seconds"], 2),
        **{key: record.get(key) for key in ("peak_memory_mib", "peak_gpu_memory_mib", "memory_measure", "threads")},
        "record": sha256(stages / name / RECORD),
        "outputs": {f"{STAGES}/{name}/{file}": entry["sha256"] for file, entry in record["outputs"].items()},
    }


def output_files(folder: Path) -> Iterator[Path]:
    """Every file of a run, by name, but its manifest, its logs, its stages (which have records) and hidden files."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and parts[0] not in (NAME, LOGS, STAGES):
            yield path


def is_current(folder: Path) -> bool:
    """Whether a run has a manifest of the present form."""
    try:
        value = read_json(folder / NAME)
    except CraneError:
        return False
    return isinstance(value, dict) and value.get("schema") == SCHEMA


def read_manifest(folder: Path) -> Manifest:
    """Read and check a run's manifest.

    Raises
    ------
    CraneError : there is none, or it is of an earlier or later form than this library's
    DamagedManifestError : it is cut off, or lacks a part
    """
    path = folder / NAME
    if not path.is_file():
        raise CraneError(f"{folder}: has no {NAME}; give the folder of a finished run, such as artifacts/mini")
    try:
        value = read_json(path)
    except CraneError as error:
        raise DamagedManifestError(str(error)) from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, str) and schema.startswith("crane.manifest/") and schema != SCHEMA:
        raise CraneError(f"{path}: is of the form {schema}, this version checks {SCHEMA}; run the study again with it")
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DamagedManifestError(f"{path}: {place}: {first['msg']}{more}") from error
