"""Tables of the set-up: texts, questions, models and guessers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from transformers import AutoConfig

from crane_study.frames import read_frame
from crane_study.labels import ordered_languages
from crane_study.loading.models import model_directory
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
        config = AutoConfig.from_pretrained(model_directory(stage.folder)).get_text_config()
        # GPT-2 and BLOOM may leave the width out, and then have four times the hidden size.
        width = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
        if hasattr(config, "moe_intermediate_size"):
            width = config.num_experts * config.moe_intermediate_size
        trained = (stage.folder / "training.csv").is_file()
        tokens = int(read_frame(stage / "training.csv")["tokens"].iloc[-1]) if trained else 0
        layers = config.num_hidden_layers
        sizes = (layers, config.hidden_size, width, layers * width, config.vocab_size)
        rows.append((name, config.model_type, *sizes, tokens))
    columns = ["model", "family", "layers", "hidden", "mlp_width", "neurons", "vocabulary", "training_tokens"]
    return pd.DataFrame(rows, columns=columns)


def training_histories(models: Mapping[str, Stage]) -> dict[str, pd.DataFrame]:
    """Loss over the steps of each model that was trained here."""
    return {name: read_frame(stage / "training.csv") for name, stage in models.items()}


def guesser_scores(corpus: Path, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of guessers and of the unmasked models (result rows), per language."""
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
