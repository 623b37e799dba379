"""manifest.json: source, packages, machine, models and data of a run, and the hashes of everything it made."""

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
NAME = "manifest.json"
MARKDOWN_REPORT, HTML_REPORT = REPORTS = ("report.md", "report.html")
STAGES = "stages"
LOGS = "logs"  # written to after the run is over, so not hashed
COMMIT_VARIABLE = "CRANE_COMMIT"  # set where there is no git: in the container image
IMAGE_VARIABLE = "CRANE_IMAGE"
DIGEST_VARIABLE = "CRANE_IMAGE_DIGEST"
ARCHIVED = ".git_archival.txt"  # git fills it in when it packs an archive
_DIRTY = "-dirty"
_PACKAGES = (
    *("torch", "transformers", "tokenizers", "datasets", "safetensors", "accelerate", "lm_eval", "numpy", "scipy"),
    *("pandas", "pyarrow", "scikit-learn", "seaborn", "matplotlib", "babel", "papermill", "jupyterlab"),
)
_WEIGHTS = (".safetensors", ".bin")
_SEED = "random_seed"
Records = Mapping[str, Mapping[str, Any]]  # stage -> its record
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0)]
Mebibytes = Annotated[float, Field(gt=0)] | None


class DamagedManifestError(Exception):
    """The manifest is there but cannot be used; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContainerImage(_Part):
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


class Versions(_Part):
    """Versions of a package that is not the locked one."""

    locked: str
    installed: str


class Locks(_Part):
    """Lock files by their hashes, and the packages that differ from them."""

    files: dict[str, Sha256]
    differing: dict[str, Versions]


class ModelOrigin(_Part):
    """Source of a model."""

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
    """Result of running a section; the runner may record more."""

    model_config = ConfigDict(extra="allow", frozen=True)

    section: str
    title: str
    status: str
    error: str | None
    key: str
    seconds: Seconds
    threads: int | None = None  # that it computed with
    jobs: int | None = None  # most sections at once when it ran
    peak_memory_mib: Mebibytes = None
    outputs: list[str]


class StageRecord(_Part):
    """A stage: its key, time and memory, the hash of its record and of everything it wrote."""

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
    """Content of manifest.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["crane.manifest/2"] = Field(alias="schema")
    written_at: str
    profile: dict[str, Any]
    random_seed: int
    seeds: dict[str, int]
    commit: str | None
    uncommitted_changes: bool | None
    commit_from: str | None
    image: ContainerImage | None
    python: str
    packages: dict[str, str | None]
    locks: Locks
    machine: Machine
    models: dict[str, ModelOrigin]
    data: dict[str, Any]
    sections: list[SectionRecord]
    stages: list[StageRecord]
    outputs: dict[str, Sha256]


def _git(*arguments: str) -> str | None:
    """Output of a git command in the repository, None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_commit() -> dict[str, Any]:
    """Describe the source: ``commit``, ``uncommitted_changes``, and ``commit_from``: git, the image or an archive.

    A git repository that only contains the source (an archive unpacked inside another project) is ignored.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT:
        status = _git("status", "--porcelain")
        changed = None if status is None else bool(status)
        return {"commit": _git("rev-parse", "HEAD"), "uncommitted_changes": changed, "commit_from": "git"}
    given = os.environ.get(COMMIT_VARIABLE, "").strip()
    if given:
        commit, changed = given.removesuffix(_DIRTY), given.endswith(_DIRTY)
        return {"commit": commit, "uncommitted_changes": changed, "commit_from": COMMIT_VARIABLE}
    try:
        found = re.search(r"^commit: ([0-9a-f]{40,64})$", (ROOT / ARCHIVED).read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    commit_from = ARCHIVED if found else None
    return {"commit": found[1] if found else None, "uncommitted_changes": None, "commit_from": commit_from}


def describe_image() -> dict[str, str | None] | None:
    """Name and digest of the container image from the environment; None outside of a container."""
    name, digest = os.environ.get(IMAGE_VARIABLE) or None, os.environ.get(DIGEST_VARIABLE) or None
    return {"name": name, "digest": digest} if name or digest else None


def missing_in_container() -> str:
    """One line on what a manifest made in this container cannot name and how to provide it; empty if nothing."""
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


def describe_locks(folder: Path = ROOT / "requirements") -> dict[str, Any]:
    """Hashes of the lock files, and every locked package of which another version is installed.

    Both together determine the version of every installed package. Locked packages that are not installed (for another
    system, another build of torch) are left out; the local part of a version, such as ``+cpu``, is ignored.
    """
    differing = {}
    files = sorted(folder.glob("*.lock"))
    for path in files:
        for name, locked in re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            found = installed_version(name)
            if found is not None and found.partition("+")[0] != locked.partition("+")[0]:
                differing[name] = {"locked": locked, "installed": found}
    return {"files": {path.name: sha256(path) for path in files}, "differing": dict(sorted(differing.items()))}


def describe_models(profile: Profile, records: Records) -> dict[str, dict[str, Any]]:
    """Source, revision or fingerprint, and hashes of the weights of the base and the chat model."""
    source, found = profile.source, {}
    if isinstance(source, EmbeddedSource):
        for name in ("base", "chat"):
            if record := records.get(f"{name}_model"):
                files = record["outputs"].items()
                weights = {file: entry["sha256"] for file, entry in files if file.endswith(_WEIGHTS)}
                found[name] = {"kind": "trained here", "stage": record["name"], "key": record["key"]}
                found[name]["weights"] = weights
        return found
    for name, given in (("base", source.base_model), ("chat", source.chat_model)):
        if given is not None:
            about = _hub_model(given) if isinstance(given, HubModel) else _model_directory(given)
            key = records.get(f"relevance_{name}", {}).get("inputs", {}).get("model")  # that the stages were made with
            found[name] = {**about, "fingerprint": key}
    return found


def _model_directory(path: Path) -> dict[str, Any]:
    return {"kind": "directory", "path": str(path), "weights": weight_hashes(path)}


def _hub_model(model: HubModel) -> dict[str, Any]:
    """Describe a model of the hub from its cache, without a request."""
    if is_local(model.id):
        return _model_directory(Path(model.id))
    from huggingface_hub import snapshot_download

    about: dict[str, Any] = {"kind": "hub", "id": model.id, "revision": model.revision, "commit": None, "weights": {}}
    try:
        folder = Path(snapshot_download(model.id, revision=model.revision, local_files_only=True))
    except (OSError, ValueError):
        return about
    return {**about, "commit": folder.name, "weights": weight_hashes(folder)}


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every weight file in a model directory.

    In the hub's cache such a file is a link to one whose name is its hash, so gigabytes need not be read again.
    """
    hashes = {}
    for path in sorted(folder.glob("*")):
        if path.suffix in _WEIGHTS and path.is_file():
            stored = path.resolve()
            named = stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name)
            hashes[path.name] = stored.name if named else file_hash(stored)
    return hashes


def file_hash(path: Path) -> str:
    """SHA-256 of a file, computed once in this process unless the file changes."""
    about = path.stat()
    return _hash(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)


def describe_data(profile: Profile, stages: Path, records: Records) -> dict[str, Any]:
    """Sources and revisions of texts and questions, and hashes of the samples that were used."""
    source = profile.source
    about: dict[str, Any] = {}
    if isinstance(source, EmbeddedSource):
        about["source"] = {"kind": "embedded", "package": "babel", "version": installed_version("babel")}
    elif isinstance(source, LocalSource):
        files = {**source.texts, **{f"questions.{name}": path for name, path in (source.questions or {}).items()}}
        about["source"] = {"kind": "files", "sha256": _file_hashes(files)}
    else:
        about["source"] = {"kind": "hub", **_kept_object(stages / "corpus" / "sample.json")}
    if profile.evaluation.tasks:
        about["benchmarks"] = _kept_object(stages / "benchmarks" / "benchmarks.json")
    if profile.open_ended.questions:
        about["open_questions"] = {"sha256": _file_hashes(profile.open_ended.questions)}
    if profile.paper.lape_list is not None:
        about["lape_list"] = {"sha256": _file_hashes({"neurons": profile.paper.lape_list})}
    about["samples"] = {
        f"{STAGES}/{name}/{file}": entry["sha256"]
        for name, record in records.items()
        if name in ("corpus", "benchmarks")
        for file, entry in record["outputs"].items()
    }
    return about


def _file_hashes(files: Mapping[str, Path]) -> dict[str, str | None]:
    """Hash of each file by its role; None for a file that no longer exists."""
    return {role: file_hash(path) if path.is_file() else None for role, path in sorted(files.items())}


def _kept_object(path: Path) -> dict[str, Any]:
    """Object that a stage wrote about its sources, empty if it has not run."""
    try:
        value = read_json(path)
    except CraneError:
        return {}
    return value if isinstance(value, dict) else {}


def describe_seeds(profile: Profile, records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Every random seed by its place: those of the profile, and those of stages that have others."""
    seeds = dict(_seeds(profile.resolved(), ""))
    for record in records:
        for place, seed in _seeds(record.get("parameters", {}), f"{STAGES}/{record['name']}"):
            if seed not in seeds.values():  # not one of the profile's
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


def describe_run(folder: Path, profile: Profile, sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Content of a run's manifest: source, packages, machine, models, data, seeds, times, memory, hashes of outputs.

    The reports, which are made from it, are not among the outputs; `write_manifest` adds them. Of the environment only
    named variables are read, none of which holds a secret.

    Parameters
    ----------
    folder : the run's folder
    sections : one record per section, as the runner keeps them
    """
    stages = folder / STAGES
    records = {record["name"]: record for record in Store(stages).records()}
    return {
        "schema": SCHEMA,
        "written_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "profile": profile.resolved(),
        "random_seed": profile.random_seed,
        "seeds": describe_seeds(profile, records.values()),
        **describe_commit(),
        "image": describe_image(),
        "python": platform.python_version(),
        "packages": {package: installed_version(package) for package in _PACKAGES},
        "locks": describe_locks(),
        "machine": describe_machine(),
        "models": describe_models(profile, records),
        "data": describe_data(profile, stages, records),
        "sections": [dict(section) for section in sections],
        "stages": [_stage(stages, record) for record in records.values()],
        "outputs": {
            str(path.relative_to(folder)): sha256(path)
            for path in output_files(folder)
            if str(path.relative_to(folder)) not in REPORTS
        },
    }


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Check the content of a manifest, add the hashes of the reports that are there, and write it."""
    reports = {name: sha256(folder / name) for name in REPORTS if (folder / name).is_file()}
    content = {**content, "outputs": dict(sorted({**content["outputs"], **reports}.items()))}
    Manifest.model_validate(content)
    write_json(folder / NAME, content)


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
    """Files of a run by name, without its manifest, logs, stages (which have records) and hidden files."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and parts[0] not in (NAME, LOGS, STAGES):
            yield path


def is_current(folder: Path) -> bool:
    """Return whether a run has a manifest of the present schema."""
    return _kept_object(folder / NAME).get("schema") == SCHEMA


def read_manifest(folder: Path) -> Manifest:
    """Read and check a run's manifest.

    Raises
    ------
    CraneError : there is none, or its schema is an earlier or later one
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
        raise CraneError(f"{path}: has schema {schema}, this version checks {SCHEMA}; run the study again with it")
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DamagedManifestError(f"{path}: {place}: {first['msg']}{more}") from error
