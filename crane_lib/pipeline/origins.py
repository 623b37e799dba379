"""Where models and data of a run come from: revisions and hashes; and every random seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256
from crane_lib.models.hub import is_local
from crane_lib.pipeline.software import installed_version
from crane_lib.profile import Profile
from crane_lib.profile_hub import HubModel
from crane_lib.profile_options import EmbeddedSource, LocalSource

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
