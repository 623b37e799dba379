"""Folder of the statistics of a model on a user's texts, which methods select from without the model."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from crane_lib.errors import CraneError
from crane_lib.files import atomic, read_json, sha256, write_json
from crane_lib.neurons import NEURON
from crane_lib.scores import ACTIVATIONS, GRADIENT, UnitScores, statistics_file
from crane_study.fingerprints import sealed, whole_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCHEMA = "crane.statistics/1"
INFO = "statistics.json"
Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """Objective and relevance rule, most tokens of a batch and of a text, and tokens at its start that do not count."""

    objective: str = "gold_logit"
    rule: str = "attnlrp"
    token_budget: int = 8192
    max_length: int = 2048
    skip_first_tokens: int = 0


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the tokens and their numbers: two tokenizers with the same hash have the same vocabulary."""
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        digest.update(f"{number} {token}\n".encode())
    return digest.hexdigest()


def write_statistics(
    folder: Path,
    network: PreTrainedModel,
    documents: dict[str, list[np.ndarray]],
    reading: PassSettings,
    *,
    of_each: int = 64,
    progress: Callable[[int], None] = lambda _done: None,
) -> int:
    """Write the statistics of every language under the objective and under plain gradients, and of single documents.

    Under torchrun every process calls this with the same arguments; finished parts are kept until the end.

    Parameters
    ----------
    documents : token ids by language
    of_each : documents per language whose activations are kept one by one (methods such as average precision)
    progress : called with the number of tokens that were read now, each of them twice

    Returns
    -------
    number of tokens read
    """
    from crane_lib.parallel import barrier, rank
    from crane_lib.relevance import fingerprint_weights, stream_statistics
    from crane_study.steps.activations import document_activations

    tokens, fingerprint = 0, fingerprint_weights(network)
    for language, own in documents.items():
        for objective, rule in ((reading.objective, reading.rule), (GRADIENT, "gradient")):
            target = statistics_file(folder, objective, language)
            if target.is_file():  # of a start that was interrupted
                progress(sum(map(len, own)))
                continue
            seen = 0

            def told(done: int, _total: int) -> None:
                nonlocal seen
                progress(done - seen)
                seen = done

            found = stream_statistics(
                network,
                own,
                objective=reading.objective,
                rule=rule,
                token_budget=reading.token_budget,
                max_length=reading.max_length,
                skip_first_tokens=reading.skip_first_tokens,
                model_fingerprint=fingerprint,
                folder=target.with_suffix(".shards"),
                progress=told,
            )
            tokens += found.tokens
            barrier()
            if rank() == 0:
                found.save(target)
                _keep(folder, target)
        if rank() == 0:
            given = {"token_budget": reading.token_budget, "skip": reading.skip_first_tokens}
            found_each = document_activations(network, own[:of_each], **given)
            with atomic(statistics_file(folder, ACTIVATIONS, language)) as temporary:
                save_file(found_each, temporary)
            _keep(folder, statistics_file(folder, ACTIVATIONS, language))
    return tokens


def _keep(folder: Path, file: Path) -> None:
    """Note a finished file with its hash."""
    info = _info(folder)
    write_json(folder / INFO, sealed(info | {"files": info.get("files", {}) | {file.name: sha256(file)}}))


def _damaged(folder: Path, info: dict[str, Any]) -> list[Path]:
    """Files that are not as they were noted, or missing; folders of earlier versions have no notes."""
    noted = {folder / name: value for name, value in info.get("files", {}).items()}
    return [file for file, value in noted.items() if not file.is_file() or sha256(file) != value]


def revision_of(model: PreTrainedModel) -> str:
    """Commit of a model that was read from the hub's cache; empty for others."""
    place = Path(model.config._name_or_path).absolute().as_posix()
    found = re.search("/snapshots/([0-9a-f]{40})(?:/|$)", place)
    return found[1] if found else ""


def described(
    *,
    model: str,
    weights: str,
    tokenizer: PreTrainedTokenizerBase,
    reading: PassSettings,
    corpora: dict[str, Any],
    revision: str = "",
) -> dict[str, Any]:
    """Describe what statistics are of: model, hash of weights, commit, tokenizer, texts (`Corpus.facts`), settings."""
    given = {"model": model, "weights": weights, "tokenizer": tokenizer_hash(tokenizer), "corpora": corpora}
    given |= {"revision": revision} if revision else {}
    return {"schema": SCHEMA, **given, **vars(reading)}


def check_free(folder: Path) -> None:
    """Refuse a folder that has other files and no statistics."""
    if (folder / INFO).is_file() or not folder.exists():
        return
    if not folder.is_dir() or any(file.name != ".lock" for file in folder.iterdir()):
        raise CraneError(f"{folder}: is not empty and has no statistics; name a new folder")


def open_folder(folder: Path, about: dict[str, Any]) -> bool:
    """Begin a folder of statistics, or go on with one of the same; returns whether it is complete.

    Raises
    ------
    CraneError : the folder has statistics of something else, or other files
    """
    if (folder / INFO).is_file():
        before = _info(folder)
        other = [name for name, value in about.items() if before.get(name) != value]
        if other:
            raise CraneError(f"{folder}: has statistics with another {other[0]}; name a new folder or delete this one")
        unsure = _damaged(folder, before)
        if not before["complete"] and "files" in before:  # a kill may have come before the note of a file
            unsure += [file for file in folder.glob("*.safetensors") if file.name not in before["files"]]
        for file in unsure:  # is made again
            file.unlink(missing_ok=True)
        return bool(before["complete"]) and not unsure
    check_free(folder)
    write_json(folder / INFO, sealed(about | {"complete": False, "files": {}}))
    return False


def close_folder(folder: Path, about: dict[str, Any]) -> None:
    """Declare the statistics in a folder complete, and remove what was kept on the way."""
    write_json(folder / INFO, sealed(_info(folder) | about | {"complete": True}))
    for shards in folder.glob("*.shards"):
        shutil.rmtree(shards, ignore_errors=True)


def _info(folder: Path) -> dict[str, Any]:
    info = read_json(folder / INFO)
    if not isinstance(info, dict) or info.get("schema") != SCHEMA:
        raise CraneError(f"{folder / INFO}: is not of statistics (expected schema {SCHEMA!r})")
    if whole_object(folder / INFO) is None:
        raise CraneError(f"{folder / INFO}: was changed after it was written; delete the folder and make it again")
    return info


def read_info(folder: Path) -> dict[str, Any]:
    """Read what the statistics in a folder are of.

    Raises
    ------
    CraneError : the folder has none, or they are not complete
    """
    if not (folder / INFO).is_file():
        raise CraneError(f"{folder}: has no statistics ({INFO} is missing); make them by crane relevance")
    info = _info(folder)
    if not info["complete"]:
        raise CraneError(f"{folder}: its statistics are not complete; start the same crane relevance again to go on")
    return info


def read_units(folder: Path, *, site: str = NEURON) -> UnitScores:
    """Read the scores of all neurons (or heads) in a folder of statistics, for the methods of the registry."""
    info = read_info(folder)
    if damaged := _damaged(folder, info):
        told = "is missing, or was changed after it was written; start the same crane relevance again to mend it"
        raise CraneError(f"{damaged[0]}: {told}")
    given: dict[str, Any] = {"objective": info["objective"], "languages": list(info["corpora"])}
    return UnitScores.read(folder, **given, documents=folder, site=site)
