"""Neuron sets as a data set of the Hugging Face hub, with a card: what is pushed, and what is read back."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import jinja2
import numpy as np
import pandas as pd
from huggingface_hub import errors
from huggingface_hub.utils.tqdm import disable_progress_bars

from crane_lib.errors import CraneError
from crane_lib.files import atomic, read_json, write_json, write_text
from crane_lib.neurons import NeuronSet
from crane_study.frames import read_frame, write_frame
from crane_study.hub import naming_mistakes
from crane_study.own.sets import read_sets, write_sets

TOKEN_VARIABLE = "HF_TOKEN"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_FILES = ("README.md", "neurons.parquet", "sets/*.json", *(f"adapters/*/{name}" for name in _ADAPTER))
_TAGS = ["interpretability", "neurons", "mlp-neurons", "language-specific-neurons"]
_CARD = Path(__file__).with_name("dataset_card.md.jinja")
_UNIT = ["language", "site", "layer", "index"]


def public_name(model: str) -> str:
    """Name of a model without the folders of this machine: of the hub's cache its id, of other paths the last part."""
    if found := re.search("models--([^/]+)--([^/]+)/snapshots/", model):
        return f"{found[1]}/{found[2]}"
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).exists()
    return model if is_id else Path(model).name


def _publishable(item: NeuronSet, model: str) -> NeuronSet:
    """Return a set whose notes are those that are meant for others."""
    notes: dict[str, Any] = {"model": model or public_name(str(item.notes.get("model", "")))}
    notes |= {name: item.notes[name] for name in ("objective", "rule") if name in item.notes}
    if isinstance(corpora := item.notes.get("corpora"), Mapping):
        notes["corpora"] = {k: {name: own.get(name) for name in ("documents", "sha256")} for k, own in corpora.items()}
    return replace(item, notes=notes)


def _read_sets(source: Path, model: str) -> dict[str, list[NeuronSet]]:
    """Sets of a file, or of all JSON files of a folder, by the file's name."""
    found = sorted(source.glob("*.json")) if source.is_dir() else [source]
    by_file = {path.stem: [_publishable(item, model) for item in read_sets(path)] for path in found}
    sets = [item for own in by_file.values() for item in own]
    if not sets:
        raise CraneError(f"{source}: has no files of neuron sets (crane select writes them)")
    if len({item.model for item in sets}) > 1:
        raise CraneError(f"{source}: its sets are of several models; push each model's to a repository of its own")
    return by_file


def _unit_table(by_file: Mapping[str, list[NeuronSet]], source: Path) -> pd.DataFrame:
    """One row per unit of every set, with its score where the folder has the scores of the method."""
    parts = []
    for item in (item for own in by_file.values() for item in own):
        for site, layers in item.sites.items():
            place = {"layer": np.repeat(np.arange(len(layers)), [*map(len, layers)]), "index": np.concatenate(layers)}
            names = {"language": item.language, "method": item.method, "budget": item.budget, "draw": item.random_seed}
            parts.append(pd.DataFrame({**names, "site": site, **place}))
    units = pd.concat(parts, ignore_index=True)
    scores = []
    for path in sorted(source.glob("*.parquet")) if source.is_dir() else []:
        frame = read_frame(path)
        if {*_UNIT, "score"} <= set(frame) and "method" in frame.attrs:
            scores.append(frame[[*_UNIT, "score"]].assign(method=frame.attrs["method"]))
    if not scores:
        return units.assign(score=np.nan)
    return units.merge(pd.concat(scores).drop_duplicates([*_UNIT, "method"]), on=[*_UNIT, "method"], how="left")


def _card(by_file: Mapping[str, list[NeuronSet]], repository: str, licence: str) -> str:
    every = [item for own in by_file.values() for item in own]
    template = jinja2.Template(_CARD.read_text(encoding="utf-8"), trim_blocks=True, keep_trailing_newline=True)
    languages = sorted({item.language for item in every if re.fullmatch("[a-z]{2,3}", item.language)})
    return template.render(
        files=by_file, first=every[0], repository=repository, licence=licence, languages=languages, tags=_TAGS
    )


def write_package(folder: Path, source: Path, *, repository: str, licence: str, model: str = "") -> list[str]:
    """Write what is pushed of a file of sets, or of a folder with sets, scores and IA3 adapters: a card, nothing else.

    `model` is its name for others, by default that in the sets, without the folders of this machine. Returns the names
    of the files.
    """
    by_file = _read_sets(source, model)
    with atomic(folder) as temporary:
        (temporary / "sets").mkdir(parents=True)
        for name, sets in by_file.items():
            write_sets(temporary / "sets" / f"{name}.json", sets)
        for config in sorted(source.glob(f"*/{_ADAPTER[0]}")):
            target, settings = temporary / "adapters" / config.parent.name, read_json(config)
            if not (settings.get("peft_type") == "IA3" and config.with_name(_ADAPTER[1]).is_file()):
                raise CraneError(f"{config}: is not of an IA3 adapter that crane mask --as ia3 wrote; move it away")
            base = model or public_name(str(settings.get("base_model_name_or_path", "")))
            write_json(target / _ADAPTER[0], settings | {"base_model_name_or_path": base})
            shutil.copyfile(config.with_name(_ADAPTER[1]), target / _ADAPTER[1])
        write_frame(temporary / "neurons.parquet", _unit_table(by_file, source))
        write_text(temporary / "README.md", _card(by_file, repository, licence))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextmanager
def _one_line(repository: str, revision: str, token: str) -> Iterator[None]:
    """Turn errors of the hub into one line, in which the token never stands."""
    try:
        with naming_mistakes(f"dataset {repository}", revision):
            yield
    except errors.HFValidationError as error:
        raise CraneError(f"{repository!r}: expected USER/NAME") from error
    except ValueError as error:
        reason = " ".join(str(error).split()).replace(token or "\0", "***")[:160]
        raise CraneError(f"dataset {repository}: the hub's answer is not understood ({reason})") from None
    except CraneError as error:
        cause, said = error.__cause__, str(error).replace(token, "***") if token else str(error)
        if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code in (401, 403) and token:
            said = f"dataset {repository}: {TOKEN_VARIABLE} has no right to do that; give a token that has"
        raise CraneError(said) from None


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Push a folder that `write_package` wrote; returns the address of the commit.

    Older sets and adapters of the repository are removed. The token is that of the environment; none, or one that the
    hub refuses, is a CraneError.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise CraneError(f"push: set {TOKEN_VARIABLE} to a token of the hub that may write; --dry-run DIR needs none")
    disable_progress_bars()
    with _one_line(repository, "main", token):
        api = huggingface_hub.HfApi(token=token)
        given: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
        api.create_repo(**given, private=private, exist_ok=True)
        old = ["sets/*", "adapters/*"]
        done = api.upload_folder(**given, folder_path=folder, commit_message="Neuron sets", delete_patterns=old)
    return str(done.commit_url)


def pull(name: str, folder: Path) -> dict[str, list[NeuronSet]]:
    """Read a data set ``USER/NAME`` or ``USER/NAME@REVISION`` that `push` wrote into a new folder: sets by file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CraneError(f"{folder}: is not empty; name a new folder")
    repository, _at, revision = name.partition("@")
    token = os.environ.get(TOKEN_VARIABLE, "")
    disable_progress_bars()
    with atomic(folder) as temporary:
        with _one_line(repository, revision or "main", token):
            given: dict[str, Any] = {"repo_type": "dataset", "revision": revision or None, "token": token or False}
            huggingface_hub.snapshot_download(repository, local_dir=temporary, allow_patterns=[*_FILES], **given)
        shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the hub's own notes
        try:
            found = {path.stem: read_sets(path) for path in sorted(temporary.glob("sets/*.json"))}
        except CraneError as error:
            raise CraneError(str(error).replace(f"{temporary}/", f"dataset {repository}: ")) from error
        if not found:
            raise CraneError(f"dataset {repository}: has no neuron sets (sets/*.json); is it of crane push?")
    return found
