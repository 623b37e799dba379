"""manifest.json: what a run was made with and what it made."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_json
from crane_lib.pipeline.machine import describe_machine
from crane_lib.pipeline.manifest_schema import SCHEMA, Manifest
from crane_lib.pipeline.origins import describe_data, describe_models, describe_seeds
from crane_lib.pipeline.software import describe_commit, describe_image, describe_locks, describe_packages
from crane_lib.pipeline.store import RECORD, Store
from crane_lib.profile import Profile

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
