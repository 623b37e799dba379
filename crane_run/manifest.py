"""manifest.json: source, packages, machine, models and data of a run, and the hashes of everything it made."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_json
from crane_study import ROOT
from crane_study.fetch import fetched_directory
from crane_study.fingerprints import sealed, whole_object
from crane_study.hub import is_local
from crane_study.loading.gguf_files import ORIGIN, is_gguf
from crane_study.machine import describe_machine
from crane_study.profile import EmbeddedSource, HubModel, LocalSource, Profile
from crane_study.store import RECORD, Store

SCHEMA = "crane.manifest/2"
NAME = "manifest.json"
MARKDOWN_REPORT, HTML_REPORT = REPORTS = ("report.md", "report.html")
STAGES = "stages"
SEEDS = "seeds"  # folder of the summary over model seeds
LOGS = "logs"  # written to after the run is over, so not hashed
COMMIT_VARIABLE = "CRANE_COMMIT"  # set where there is no git: in the container image
IMAGE_VARIABLE = "CRANE_IMAGE"
DIGEST_VARIABLE = "CRANE_IMAGE_DIGEST"
ARCHIVED = ".git_archival.txt"  # git fills it in when it packs an archive
_PACKAGES = (
    *("torch", "transformers", "tokenizers", "datasets", "safetensors", "accelerate", "lm_eval", "numpy", "scipy"),
    *("pandas", "pyarrow", "scikit-learn", "seaborn", "matplotlib", "babel", "papermill", "jupyterlab"),
)
_WEIGHTS = (".safetensors", ".bin")
Records = Mapping[str, Mapping[str, Any]]  # stage -> its record
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0)]
Mebibytes = Annotated[float, Field(gt=0)] | None


class DamagedManifestError(CraneError):
    """The manifest is there but cannot be used; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OpenPart(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Machine(_OpenPart):
    """Processor, GPUs, and the rest of `crane_study.machine.describe_machine`."""

    processor: str
    gpus: list[dict[str, Any]]


class ModelOrigin(_OpenPart):
    """Source of a model, and what names it there: checkpoint or precision with stage and key, path, or hub id."""

    kind: Literal["trained here", "released checkpoint", "directory", "hub", "package", "GGUF file"]
    fingerprint: str | None = None
    weights: dict[str, Sha256]


class SectionRecord(_OpenPart):
    """Result of running a section; the runner may record more."""

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

    schema_: Literal["crane.manifest/2"] = Field(alias="schema")
    written_at: str
    profile: dict[str, Any]
    random_seed: int
    seeds: dict[str, int]
    commit: str | None
    uncommitted_changes: bool | None
    commit_from: str | None
    image: dict[Literal["name", "digest"], str | None] | None
    python: str
    packages: dict[str, str | None]
    locks: dict[Literal["files", "differing"], dict[str, Any]]
    machine: Machine
    models: dict[str, ModelOrigin]
    data: dict[str, Any]
    sections: list[SectionRecord]
    stages: list[StageRecord]
    outputs: dict[str, Sha256]
    seal: str | None = None  # hash of the rest; earlier versions wrote none


def _git(*arguments: str) -> str | None:
    """Output of a git command in the repository, None if it fails."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def describe_commit() -> dict[str, Any]:
    """Describe the source: ``commit``, ``uncommitted_changes``, and ``commit_from``: git, the image or an archive.

    A git repository that only contains the source (an archive unpacked inside another project) is ignored.
    """
    found: tuple[str | None, bool | None, str | None] = (None, None, None)
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT:
        status = _git("status", "--porcelain")
        found = (_git("rev-parse", "HEAD"), None if status is None else bool(status), "git")
    elif given := os.environ.get(COMMIT_VARIABLE, "").strip():
        found = (given.removesuffix("-dirty"), given.endswith("-dirty"), COMMIT_VARIABLE)
    elif (archived := ROOT / ARCHIVED).is_file():
        text = archived.read_text(encoding="ascii")
        if commit := re.search(r"^commit: ([0-9a-f]{40,64})$", text, re.MULTILINE):
            found = (commit[1], None, ARCHIVED)
    return dict(zip(("commit", "uncommitted_changes", "commit_from"), found, strict=True))


def refused_by_git() -> str:
    """One line on git's refusal of a checkout that another user owns, which hides the commit; empty without one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, env={**os.environ, "LC_ALL": "C"})
        if said.returncode and "dubious ownership" in said.stderr and not describe_commit()["commit"]:
            remedy = f"git config --global --add safe.directory {shlex.quote(str(ROOT))}"
            return f"note: the manifest will not name the commit: {ROOT} belongs to another user; `{remedy}` allows it"
    return ""


def describe_image() -> dict[str, str | None] | None:
    """Name and digest of the container image from the environment; None outside of a container."""
    name, digest = os.environ.get(IMAGE_VARIABLE) or None, os.environ.get(DIGEST_VARIABLE) or None
    return {"name": name, "digest": digest} if name or digest else None


def missing_in_container() -> str:
    """One line on what a manifest made in this container cannot name and how to provide it; empty if nothing."""
    image, lacking = describe_image(), {}
    if image and not describe_commit()["commit"]:
        lacking["the commit"] = "build the image with --build-arg COMMIT=..."
    if image and not image["digest"]:
        lacking["the image's digest"] = f"start the container with -e {DIGEST_VARIABLE}=..."
    if not lacking:
        return ""
    return (
        f"note: the manifest will not name {' nor '.join(lacking)}; to have it there, {' and '.join(lacking.values())} "
        "(README.md, section Docker, has the commands)"
    )


def installed_version(package: str) -> str | None:
    """Version of an installed package, None if it is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def describe_locks(folder: Path = ROOT / "requirements") -> dict[str, Any]:
    """Hashes of the lock files, and every locked package of which another version is installed.

    Locked packages that are not installed are left out; the local part of a version, such as ``+cpu``, is ignored.
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
    for name in ("base", "chat"):
        if isinstance(source, EmbeddedSource):
            if record := records.get(f"{name}_model"):
                files = record["outputs"].items()
                weights = {file: entry["sha256"] for file, entry in files if file.endswith(_WEIGHTS)}
                place = {"stage": record["name"], "key": record["key"]}
                found[name] = {**_embedded_origin(record["parameters"]), **place, "weights": weights}
        elif (given := source.base_model if name == "base" else source.chat_model) is not None:
            key = records.get(f"relevance_{name}", {}).get("inputs", {}).get("model")  # that the stages were made with
            found[name] = {**_model_origin(given), "fingerprint": key}
    return found


def _embedded_origin(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an embedded model by the parameters of its stage."""
    if (name := parameters.get("checkpoint")) is not None:
        return {"kind": "released checkpoint", "checkpoint": name}
    return {"kind": "trained here", "precision": parameters.get("precision")}


def _model_origin(model: Path | HubModel) -> dict[str, Any]:
    """Describe a model directory, a GGUF file, or a model of the hub from its cache, without a request."""
    if isinstance(model, HubModel) and model.package and (fetched := fetched_directory(model.package)):
        origin, weights = _kept_object(fetched / ORIGIN), _weight_hashes(fetched)
        place = {"kind": "package", "package": model.package, "in_place_of": model.id}
        return {**place, "origin": origin, "weights": weights}
    if isinstance(model, Path) or is_local(model.id):
        path = model if isinstance(model, Path) else Path(model.id)
        if is_gguf(path):
            return {"kind": "GGUF file", "path": str(path), "weights": _file_hashes({path.name: path})}
        return {"kind": "directory", "path": str(path), "weights": _weight_hashes(path)}
    from huggingface_hub import snapshot_download

    about: dict[str, Any] = {"kind": "hub", "id": model.id, "revision": model.revision, "commit": None, "weights": {}}
    with suppress(OSError, ValueError):  # not in the cache
        folder = Path(snapshot_download(model.id, revision=model.revision, local_files_only=True))
        about |= {"commit": folder.name, "weights": _weight_hashes(folder)}
    return about


def _weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every weight file in a model directory.

    In the hub's cache such a file is a link to one whose name is its hash, so gigabytes need not be read again.
    """
    hashes = {}
    for path in sorted(folder.glob("*")):
        if path.suffix in _WEIGHTS and path.is_file():
            stored = path.resolve()
            named = stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name)
            hashes[path.name] = stored.name if named else sha256(stored)
    return hashes


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
    samples = [_stage_hashes(record) for name, record in records.items() if name in ("corpus", "benchmarks")]
    return {**about, "samples": {file: value for sample in samples for file, value in sample.items()}}


def _file_hashes(files: Mapping[str, Path]) -> dict[str, str | None]:
    """Hash of each file by its role; None for a file that no longer exists."""
    return {role: sha256(path) if path.is_file() else None for role, path in sorted(files.items())}


def _stage_hashes(record: Mapping[str, Any]) -> dict[str, str]:
    """Hash of each file that a stage wrote."""
    return {f"{STAGES}/{record['name']}/{file}": entry["sha256"] for file, entry in record["outputs"].items()}


def _kept_object(path: Path) -> dict[str, Any]:
    """Object in a JSON file, empty if there is none."""
    with suppress(CraneError):
        value = read_json(path)
        return value if isinstance(value, dict) else {}
    return {}


def describe_seeds(profile: Profile, records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Every random seed by its place: those of the profile, and those of stages that have others."""
    seeds = dict(_seeds(profile.resolved(), ""))
    for record in records:
        for place, seed in _seeds(record.get("parameters", {}), f"{STAGES}/{record['name']}."):
            if seed not in seeds.values():  # not one of the profile's
                seeds[place] = seed
    return seeds


def _seeds(value: Any, prefix: str) -> Iterator[tuple[str, int]]:
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        if str(name).endswith("random_seed") and isinstance(inner, int):
            yield f"{prefix}{name}", inner
        else:
            yield from _seeds(inner, f"{prefix}{name}.")


def describe_run(folder: Path, profile: Profile, sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Content of a run's manifest: source, packages, machine, models, data, seeds, times, memory, hashes of outputs.

    The reports, which are made from it, are not among the outputs; `write_manifest` adds them. Of the environment only
    named variables are read, none of which holds a secret. `sections` has one record per section.
    """
    stages = folder / STAGES
    records = {record["name"]: record for record in Store(stages).records()}
    measured = ("peak_memory_mib", "peak_gpu_memory_mib", "memory_measure", "threads")
    outputs = {str(path.relative_to(folder)): path for path in output_files(folder)}
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
        "stages": [
            {
                **{key: record[key] for key in ("name", "key", "inputs")},
                "seconds": round(record["seconds"], 2),
                **{key: record.get(key) for key in measured},
                "record": sha256(stages / name / RECORD),
                "outputs": _stage_hashes(record),
            }
            for name, record in records.items()
        ],
        "outputs": {name: sha256(path) for name, path in outputs.items() if name not in REPORTS},
    }


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Check the content of a manifest, and write it with the hashes of the reports that are there."""
    reports = {name: sha256(folder / name) for name in REPORTS if (folder / name).is_file()}
    content = {**content, "outputs": dict(sorted({**content["outputs"], **reports}.items()))}
    Manifest.model_validate(content)
    write_json(folder / NAME, sealed(content))


def output_files(folder: Path) -> Iterator[Path]:
    """Files of a run by name, without its manifest, logs, stages (which have records) and hidden files."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in (NAME, LOGS, STAGES) and not any(part[0] == "." for part in parts):
            yield path


def is_current(folder: Path) -> bool:
    """Return whether a run has a whole manifest of the present schema, and the reports that it lists."""
    found = whole_object(folder / NAME) or {}
    reports = {name: sha256(folder / name) for name in REPORTS if (folder / name).is_file()}
    listed = {name: value for name, value in (found.get("outputs") or {}).items() if name in REPORTS}
    return found.get("schema") == SCHEMA and reports == listed


def read_manifest(folder: Path) -> Manifest:
    """Read and check a run's manifest.

    A run without one, or with one of another schema, is a CraneError; one that is cut off or lacks a part is a
    DamagedManifestError.
    """
    path = folder / NAME
    if not path.is_file():
        raise CraneError(f"{folder}: has no {NAME}; give the folder of a finished run, such as artifacts/mini")
    schema = str(_kept_object(path).get("schema", SCHEMA))
    if schema.startswith("crane.manifest/") and schema != SCHEMA:
        raise CraneError(f"{path}: has schema {schema}, this version checks {SCHEMA}; run the study again with it")
    try:
        value = read_json(path)
        if whole_object(path) is None:
            raise DamagedManifestError(f"{path}: was changed after the run")
        return Manifest.model_validate(value)
    except CraneError as error:
        raise DamagedManifestError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DamagedManifestError(f"{path}: {place}: {first['msg']}{more}") from error
