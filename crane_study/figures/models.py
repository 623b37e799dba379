"""Figures of the embedded model: its training, and the accuracy of guessers on its questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from statsmodels.stats.proportion import proportion_confint

from crane_lib.errors import CraneError
from crane_study.figures.alt_text import tell, tell_line
from crane_study.figures.panels import WIDTH, dodged, grid, interval_bars, legend_below
from crane_study.figures.style import MODEL_COLOURS, UNKNOWN_COLOUR, drawing
from crane_study.labels import MODEL_LABELS, language_name, ordered_languages

_GUESSERS = {
    "model": ("Model", MODEL_COLOURS["base"]),
    "chat model": ("Chat model", MODEL_COLOURS["chat"]),
    "overlap": ("Guesser: overlap with the question", "#E69F00"),
    "longest": ("Guesser: longest option", "#56B4E9"),
    "shortest": ("Guesser: shortest option", "#B7DDF3"),
    "answer_frequency": ("Guesser: most frequent answer", "#CC79A7"),
}


def training_loss(histories: Mapping[str, pd.DataFrame], path: Path) -> str:
    """Training loss by step, a panel per model; a history has step, loss and tokens."""
    if not histories or any(frame.empty for frame in histories.values()):
        raise CraneError("training loss: a history is empty; train the models first")
    with drawing(path, width=max(3.4, 3.4 * len(histories)), height=2.4) as figure:
        panels = grid(figure, len(histories), columns=len(histories))
        for panel, (model, frame) in zip(panels, histories.items(), strict=True):
            colour = MODEL_COLOURS.get(model, UNKNOWN_COLOUR)
            sns.lineplot(frame, x="step", y="loss", estimator=None, ax=panel, color=colour)
            tell(panel, "Loss", frame["step"], frame["loss"])
            panel.set(title=MODEL_LABELS.get(model, model), xlabel="Step", ylabel="")
            panel.set_ylim(bottom=0)
            panel.grid(axis="y")
        panels[0].set_ylabel("Loss (nats per token)")
    ends = "; ".join(
        f"{MODEL_LABELS.get(model, model).lower()} {frame['loss'].iloc[-1]:.3f} after {int(frame['step'].iloc[-1]):,} "
        f"steps and {frame['tokens'].iloc[-1] / 1e6:.2f} million tokens"
        for model, frame in histories.items()
    )
    return f"Training loss (nats per token) by step, as logged, not smoothed. Last values: {ends}."


def guessers(frame: pd.DataFrame, path: Path, *, chance: float = 0.25) -> str:
    """Accuracy (language, guesser, accuracy, n) of the model compared with that of guessers that know nothing."""
    languages = ordered_languages(frame["language"])
    found = [name for name in _GUESSERS if name in set(frame["guesser"])]
    found += sorted(set(frame["guesser"]) - set(found))
    looks = [_GUESSERS.get(name, (name.replace("_", " ").capitalize(), UNKNOWN_COLOUR)) for name in found]
    with drawing(path, width=6.4, height=3.0) as figure:
        axes = figure.subplots()
        sns.barplot(
            frame, x="language", y="accuracy", hue="guesser", order=languages, hue_order=found, ax=axes, width=WIDTH,
            palette=[colour for _label, colour in looks], saturation=1, errorbar=None, legend=False,
        )  # fmt: skip
        axes.axhline(chance, color="black", linewidth=0.9, linestyle="--", label=f"Chance ({chance:g})")
        tell_line(axes, f"Chance ({chance:g})", chance)
        names = [language_name(code) for code in languages]
        places = np.arange(len(languages))
        bars = zip(list(axes.containers), found, looks, dodged(len(found)), strict=True)
        for container, guesser, (label, _colour), offset in bars:
            container.set_label(label)
            part = frame[frame["guesser"] == guesser].set_index("language").reindex(languages)
            low, high = proportion_confint(part["accuracy"] * part["n"], part["n"], method="wilson")
            interval_bars(axes, places + offset, low, high)
            tell(axes, label, names, part["accuracy"], low=low, high=high)
        axes.set_xticks(places, names)
        axes.set(xlabel="", ylabel="Accuracy (share of questions)", ylim=(0, 1))
        axes.grid(axis="y")
        legend_below(figure, axes, columns=3)
    counts = frame.groupby("language")["n"].max()
    sizes = ", ".join(f"{language_name(code)} {int(counts[code]):,}" for code in languages)
    return (
        "Accuracy on the held-out four-way questions: the model and guessers that see only spelling or frequency (ties "
        f"split evenly). Bars: 95 % Wilson intervals over questions ({sizes}). Dashed: guessing at random."
    )
