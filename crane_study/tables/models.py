"""Tables of the set-up: texts, questions, models and guessers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoConfig

from crane_lib.models import model_directory
from crane_study.frames import read_frame
from crane_study.labels import ordered_languages
from crane_study.store import Stage


def document_counts(corpus: Path) -> pd.DataFrame:
    """Documents and mean length in characters of each split, kind and language."""
    frame = pd.read_parquet(corpus / "documents.parquet")
    frame = frame.assign(characters=frame["text"].str.len())
    grouped = frame.groupby(["split", "kind", "language"], sort=False)["characters"]
    return grouped.agg(documents="size", mean_characters="mean").reset_index()


def facts_table(corpus: Path) -> pd.DataFrame:
    """Facts stated, unnamed and kept, and questions asked, per subject and for all subjects."""
    frame = read_frame(corpus / "fact_counts.csv")
    counts = [name for name in frame.columns if name != "subject"]
    total = {"subject": "all", **{name: int(frame[name].sum()) for name in counts}}
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)[["subject", *counts]]


def model_sizes(models: Mapping[str, Stage]) -> pd.DataFrame:
    """Architecture of each model, from its configuration, and its training tokens if it was trained here."""
    rows = []
    for name, stage in models.items():
        config = AutoConfig.from_pretrained(model_directory(stage.folder))
        width = _mlp_width(config)
        trained = (stage.folder / "training.csv").is_file()
        rows.append(
            {
                "model": name,
                "family": config.model_type,
                "layers": config.num_hidden_layers,
                "hidden": config.hidden_size,
                "mlp_width": width,
                "neurons": config.num_hidden_layers * width,
                "vocabulary": config.vocab_size,
                "training_tokens": int(read_frame(stage / "training.csv")["tokens"].iloc[-1]) if trained else 0,
            }
        )
    return pd.DataFrame(rows)


def _mlp_width(config: Any) -> int:
    """Neurons per layer; GPT-2 and BLOOM may leave it out, and then have four times the hidden size."""
    return getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size


def training_histories(models: Mapping[str, Stage]) -> dict[str, pd.DataFrame]:
    """Loss over the steps of each model that was trained here."""
    return {name: read_frame(stage / "training.csv") for name, stage in models.items()}


def guesser_scores(corpus: Path, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of guessers and of the models, per language.

    Parameters
    ----------
    accuracy : result rows of the unmasked models' accuracy
    """
    names = {"evaluation_language": "language", "model": "guesser", "value": "accuracy"}
    models = accuracy.rename(columns=names)[["language", "guesser", "accuracy", "n"]]
    models = models.assign(guesser=models["guesser"].map({"base": "model", "chat": "chat model"}))
    return pd.concat([models, read_frame(corpus / "guessers.csv")], ignore_index=True)


def guesser_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the models and of the guessers, one row per language; n is the number of questions."""
    guessers = list(dict.fromkeys(scores["guesser"]))
    table = scores.pivot_table(index="language", columns="guesser", values="accuracy")
    table = table.reindex(index=ordered_languages(scores["language"]), columns=guessers).rename_axis(columns=None)
    table.insert(0, "n", scores.groupby("language")["n"].max())
    return table.reset_index()
