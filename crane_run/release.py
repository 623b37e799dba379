"""Release of the embedded models that a run trained, as a checkpoint with a card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import atomic, sha256, write_json, write_text
from crane_run.verify import whole_manifest
from crane_study.checkpoints import CARD, HISTORY, SCHEMA, recipe
from crane_study.frames import read_frame
from crane_study.profile import load_profile

_MODELS = ("base", "chat")
_LAST = 0.05  # share of the steps at the end over which the loss is averaged

_WORDS = """# Checkpoint of the profile {profile}

Base and chat model of CRANE's embedded study: small Llamas trained from scratch on facts of Unicode CLDR (data licence:
Unicode License v3) in English, Chinese and Vietnamese, by this repository's own code. `base/` and `chat/` are ordinary
Hugging Face directories. The weights are kept in {stored}; the study computes in {dtype}. Licence: MIT, as the code.

They know a few thousand template sentences and nothing else: a test bed for methods, not a language model for use.

| | |
|---|---|
| commit | {commit} |
| command | `{command}` |
| trained in | {precision}, on {processor}, {seconds:.0f} s |
| packages | {packages} |
| training tokens | base {base_tokens:,}, chat {chat_tokens:,} |
| loss at the end (nats per token) | base {base_loss:.3f}, chat {chat_loss:.3f} |
| training texts | SHA-256 {texts} |
| base weights | SHA-256 {base_hash} |
| chat weights | SHA-256 {chat_hash} |

`checkpoint.json` has the whole recipe and the hash of every file; a study whose recipe differs does not use it.
"""


def write_checkpoint(run: Path, folder: Path) -> None:
    """Write the models of a finished run into a new folder, with a card.

    Raises
    ------
    CraneError : the folder exists, or the run's models were not trained in it from committed code
    """
    if folder.exists():
        raise CraneError(f"{folder}: exists already; remove it first, or name another folder")
    manifest = whole_manifest(run)
    origins = [manifest.models.get(name) for name in _MODELS]
    if not all(origin and origin.kind == "trained here" for origin in origins):
        raise CraneError(f"{run}: its models were not trained in this run; run it with --retrain")
    if manifest.commit is None or manifest.uncommitted_changes:
        raise CraneError(f"{run}: made from code that is not committed; commit, run it with --retrain --fresh")
    profile = load_profile(str(run / "profile.yaml"))
    with atomic(folder) as temporary:
        for name in _MODELS:
            stage = run / "stages" / f"{name}_model"
            shutil.copytree(stage / "model", temporary / name)
            shutil.copy(stage / HISTORY, temporary / name / HISTORY)
        files = {
            str(path.relative_to(temporary)): sha256(path) for path in sorted(temporary.rglob("*")) if path.is_file()
        }
        card = {
            "schema": SCHEMA,
            "profile": profile.name,
            "recipe": recipe(profile, run / "stages" / "corpus"),
            "commit": manifest.commit,
            "command": f"./run_all.sh --profile {profile.name} --retrain",
            "precision": manifest.models["base"].model_dump()["precision"],
            "processor": manifest.machine.processor,
            "packages": {name: manifest.packages[name] for name in ("torch", "transformers", "tokenizers")},
            "training": {name: _training(run / "stages" / f"{name}_model") for name in _MODELS},
            "files": files,
        }
        write_json(temporary / CARD, card)
        write_text(temporary / "README.md", _words(card))


def _training(stage: Path) -> dict[str, Any]:
    """Describe a training by its history."""
    history = read_frame(stage / HISTORY)
    last = history["loss"].tail(max(1, round(_LAST * len(history))))
    return {
        "steps": len(history),
        "tokens": int(history["tokens"].iloc[-1]),
        "seconds": round(float(history["seconds"].iloc[-1]), 1),
        "loss": round(float(last.mean()), 4),
    }


def _words(card: dict[str, Any]) -> str:
    """Write the card for people."""
    training, files = card["training"], card["files"]
    return _WORDS.format(
        **{key: card[key] for key in ("profile", "commit", "command", "precision", "processor")},
        stored="float32" if card["recipe"]["dtype"] == "float64" else "float16",
        dtype=card["recipe"]["dtype"],
        texts=card["recipe"]["texts"],
        packages=", ".join(f"{name} {version}" for name, version in card["packages"].items()),
        seconds=sum(part["seconds"] for part in training.values()),
        **{f"{name}_{key}": training[name][key] for name in training for key in ("tokens", "loss")},
        **{f"{name}_hash": files[f"{name}/model.safetensors"] for name in training},
    )
