"""Figures of the embedded model: how it was trained and what guessers reach on its questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_study.figures.panels import grid
from crane_study.figures.style import MODEL_COLOURS, UNKNOWN_COLOUR, drawing
from crane_study.labels import MODEL_LABELS, language_name, ordered_languages

_GUESSERS = {
    "model": ("Model", "#3B3B3B"),
    "base": ("Base model", MODEL_COLOURS["base"]),
    "chat": ("Chat model", MODEL_COLOURS["chat"]),
    "chat model": ("Chat model", MODEL_COLOURS["chat"]),
    "overlap": ("Guesser: overlap with the question", "#E69F00"),
    "longest": ("Guesser: longest option", "#56B4E9"),
    "shortest": ("Guesser: shortest option", "#B7DDF3"),
    "answer_frequency": ("Guesser: most frequent answer", "#CC79A7"),
}
_Z95 = 1.959963984540054


def training_loss(histories: Mapping[str, pd.DataFrame], path: Path) -> str:
    """Training loss by step, a panel a model.

    Parameters
    ----------
    histories : model -> training history (step, loss, learning_rate, tokens, seconds)

    Returns
    -------
    the caption
    """
    if not histories or any(frame.empty for frame in histories.values()):
        raise CraneError("training loss: a history is empty; train the models first")
    with drawing(path, width=max(3.4, 3.4 * len(histories)), height=2.4) as figure:
        panels = grid(figure, len(histories), columns=len(histories))
        for panel, (model, frame) in zip(panels, histories.items(), strict=True):
            panel.plot(frame["step"], frame["loss"], color=MODEL_COLOURS.get(model, UNKNOWN_COLOUR))
            panel.set_title(MODEL_LABELS.get(model, model))
            panel.set_xlabel("Step")
            panel.set_ylim(bottom=0)
            panel.grid(axis="y")
        panels[0].set_ylabel("Loss (nats per token)")
    ends = "; ".join(
        f"{MODEL_LABELS.get(model, model).lower()} {frame['loss'].iloc[-1]:.3f} after {int(frame['step'].iloc[-1]):,} "
        f"steps and {frame['tokens'].iloc[-1] / 1e6:.2f} million tokens"
        for model, frame in histories.items()
    )
    return f"Training loss (nats per token) by step, as logged, not smoothed. Last values: {ends}."


def wilson(accuracy: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of a share of n items."""
    square = _Z95**2
    centre = (accuracy + square / (2 * n)) / (1 + square / n)
    half = _Z95 / (1 + square / n) * np.sqrt(accuracy * (1 - accuracy) / n + square / (4 * n**2))
    return centre - half, centre + half


def guessers(frame: pd.DataFrame, path: Path, *, chance: float = 0.25) -> str:
    """Accuracy of the model beside that of guessers that know nothing.

    Parameters
    ----------
    frame : language, guesser, accuracy, n
    chance : accuracy of guessing at random

    Returns
    -------
    the caption
    """
    languages = ordered_languages(frame["language"])
    names = [name for name in _GUESSERS if name in set(frame["guesser"])]
    names += sorted(set(frame["guesser"]) - set(names))
    width = 0.84 / len(names)
    with drawing(path, width=6.4, height=3.0) as figure:
        axes = figure.subplots()
        for number, name in enumerate(names):
            part = frame[frame["guesser"] == name].set_index("language").reindex(languages)
            accuracy, n = part["accuracy"].to_numpy(float), part["n"].to_numpy(float)
            places = np.arange(len(languages)) + (number - (len(names) - 1) / 2) * width
            label, colour = _GUESSERS.get(name, (name.replace("_", " ").capitalize(), UNKNOWN_COLOUR))
            axes.bar(places, accuracy, width, color=colour, label=label)
            low, high = wilson(accuracy, n)
            errors = [np.maximum(accuracy - low, 0), np.maximum(high - accuracy, 0)]
            style: dict[str, Any] = {"fmt": "none", "ecolor": "black", "elinewidth": 0.8, "capsize": 1.5}
            axes.errorbar(places, accuracy, yerr=errors, label=f"_{label}, 95 % interval", **style)
        axes.axhline(chance, color="black", linewidth=0.9, linestyle="--", label=f"Chance ({chance:g})")
        axes.set_xticks(range(len(languages)), [language_name(code) for code in languages])
        axes.set_ylabel("Accuracy (share of questions)")
        axes.set_ylim(0, 1)
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=3)
    counts = frame.groupby("language")["n"].max()
    sizes = ", ".join(f"{language_name(code)} {int(counts[code]):,}" for code in languages)
    return (
        "Accuracy on the held-out four-way questions: the model and guessers that see only spelling or frequency (ties "
        f"split evenly). Bars: 95 % Wilson intervals over questions ({sizes}). Dashed: guessing at random."
    )
