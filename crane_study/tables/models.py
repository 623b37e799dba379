"""Frames for the set-up section: what the study's texts, questions and models are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoConfig

from crane_lib.models import model_directory
from crane_study.frames import read_frame
from crane_study.store import Stage


def document_counts(corpus: Path) -> pd.DataFrame:
    """Documents and mean length in characters of each split, kind and language."""
    frame = pd.read_parquet(corpus / "documents.parquet")
    frame = frame.assign(characters=frame["text"].str.len())
    grouped = frame.groupby(["split", "kind", "language"], sort=False)["characters"]
    return grouped.agg(documents="size", mean_characters="mean").reset_index()


def fact_counts(corpus: Path) -> pd.DataFrame:
    """Facts stated, unnamed and kept, and questions asked, a subject."""
    return read_frame(corpus / "fact_counts.csv")


def model_sizes(models: Mapping[str, Stage]) -> pd.DataFrame:
    """Architecture of each model, from its configuration, and what its training took where it was trained here."""
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
    """Neurons of a layer: GPT-2 and BLOOM, which need not say, have four times the hidden size."""
    return getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size


def training_histories(models: Mapping[str, Stage]) -> dict[str, pd.DataFrame]:
    """Loss over the steps of each model that was trained here."""
    return {name: read_frame(stage / "training.csv") for name, stage in models.items()}


def guesser_scores(corpus: Path, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of guessers and of the models, a language.

    Parameters
    ----------
    accuracy : result rows of the unmasked models' accuracy
    """
    models = pd.DataFrame(
        {
            "language": accuracy["evaluation_language"],
            "guesser": accuracy["model"].map({"base": "model", "chat": "chat model"}),
            "accuracy": accuracy["value"],
            "n": accuracy["n"],
        }
    )
    return pd.concat([models, read_frame(corpus / "guessers.csv")], ignore_index=True)
