"""Released checkpoints: the embedded models as they come with the repository.

A checkpoint is a folder with `CARD`, which holds its recipe and the hash of every file, and the Hugging Face
directories ``base/`` and ``chat/``. A study takes the one whose recipe is its own, and trains where there is none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256
from crane_study import ROOT
from crane_study.profile import EmbeddedSource, Profile

CARD = "checkpoint.json"
SCHEMA = "crane.checkpoint/1"
HISTORY = "training.csv"  # loss over the steps
FOLDER_VARIABLE = "CRANE_CHECKPOINTS"  # set in the container image, where artifacts/ is a volume
RESTORE = "restore it (git checkout -- artifacts/checkpoints) or train the models on the spot with --retrain"


def checkpoints_root() -> Path:
    """Folder of the released checkpoints."""
    return Path(os.environ.get(FOLDER_VARIABLE) or ROOT / "artifacts" / "checkpoints")


def is_trained_here(profile: Profile) -> bool:
    """Return whether a profile's models will be trained, as far as can be said before its texts are made."""
    source = profile.source
    if not isinstance(source, EmbeddedSource) or source.weights == "trained":
        return isinstance(source, EmbeddedSource)
    return find_checkpoint(_settings(profile, source))[0] is None


def _settings(profile: Profile, source: EmbeddedSource) -> dict[str, Any]:
    """Return the part of a recipe that the profile states."""
    parts = {"architecture": source.architecture, "base": source.base, "chat": source.chat}
    return {
        **{f"{name}.{key}": value for name, part in parts.items() for key, value in part.model_dump().items()},
        "random_seed": profile.random_seed,
        "dtype": "float64" if profile.dtype == "float64" else "float32",
    }


def recipe(profile: Profile, corpus: Path) -> dict[str, Any]:
    """Everything that determines the models of a profile, up to rounding.

    Parameters
    ----------
    corpus : stage with the training texts and conversations
    """
    import pandas as pd  # here, so that the runner starts without it

    source = profile.source
    assert isinstance(source, EmbeddedSource)
    documents = pd.read_parquet(corpus / "documents.parquet", columns=["split", "text"])
    texts = hashlib.sha256("\0".join(documents.loc[documents["split"] == "train", "text"]).encode())
    return {
        **_settings(profile, source),
        "texts": texts.hexdigest(),
        "conversations": sha256(corpus / "conversations.jsonl"),
    }


def find_checkpoint(wanted: Mapping[str, Any]) -> tuple[str | None, str]:
    """Name of the released checkpoint of a recipe, or None, and a line that says what is used.

    Raises
    ------
    CraneError : a card cannot be read
    """
    near: dict[str, list[str]] = {}
    for path in sorted(checkpoints_root().glob(f"*/{CARD}")):
        own = read_card(path.parent)["recipe"]
        near[path.parent.name] = [key for key in wanted if own.get(key) != wanted[key]]
        if not near[path.parent.name]:
            return path.parent.name, f"models: released checkpoint {path.parent.name}; --retrain trains them here"
    if not near:
        return None, f"models: trained here, for {checkpoints_root()} has no checkpoint"
    closest = min(near, key=lambda name: len(near[name]))
    differs = ", ".join(near[closest])
    return None, f"models: trained here, for no released checkpoint has their recipe ({closest} differs in {differs})"


def read_card(folder: Path) -> dict[str, Any]:
    """Card of a checkpoint.

    Raises
    ------
    CraneError : there is none, or it is none of ours
    """
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or card.get("schema") != SCHEMA or not isinstance(card.get("recipe"), dict):
        raise CraneError(f"{folder / CARD}: not a card of a checkpoint ({SCHEMA}); {RESTORE}")
    return card


def file_hashes(folder: Path, model: str) -> dict[str, str]:
    """Hash of every file of a checkpoint's model by its name in the checkpoint, checked against the card.

    Raises
    ------
    CraneError : a file is missing, is not on the card, or is not the one on the card
    """
    listed = {name: value for name, value in read_card(folder)["files"].items() if name.startswith(f"{model}/")}
    there = {str(path.relative_to(folder)) for path in (folder / model).rglob("*") if path.is_file()}
    if lacking := sorted(listed.keys() - there) or sorted({f"{model}/model.safetensors"} - listed.keys()):
        raise CraneError(f"{folder / lacking[0]}: missing from the checkpoint; {RESTORE}")
    if foreign := sorted(there - listed.keys()):
        raise CraneError(f"{folder / foreign[0]}: not on the checkpoint's card; remove it, or {RESTORE}")
    for name, wanted in listed.items():
        if (found := sha256(folder / name)) != wanted:
            raise CraneError(f"{folder / name}: damaged: its SHA-256 is {found}, the card says {wanted}; {RESTORE}")
    return listed


def take_model(folder: Path, *, checkpoint: str, model: str) -> None:
    """Step: copy a model of a released checkpoint; writes ``model/`` and ``training.csv``."""
    source = checkpoints_root() / checkpoint
    file_hashes(source, model)
    shutil.copytree(source / model, folder / "model")
    (folder / "model" / HISTORY).rename(folder / HISTORY)
