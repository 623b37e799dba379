"""Figures over model seeds: every seed a dot, the mean with its t-interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import t

from crane_study.figures.panels import grid
from crane_study.figures.style import LATIN, drawing, language_colours, method_colour
from crane_study.labels import METRIC_LABELS, language_name, method_label, ordered_languages, ordered_sets

_DOTS = "Small dots: the seeds; large: their mean with the 95 % t-interval."


def _spread(axes: Axes, values: np.ndarray, y: float, *, colour: str, name: str, filled: bool = True) -> None:
    """Seeds as small dots, their mean as a large one with its t-interval."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    axes.plot(values, np.full(len(values), y), "o", ms=2.6, color=colour, alpha=0.5, zorder=2, label=f"_{name}, seeds")
    mean = float(values.mean())
    if len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
        label = f"_{name}, 95 % t-interval"
        axes.plot([mean - half, mean + half], [y, y], color=colour, linewidth=1.2, zorder=1, label=label)
    face, edge = (colour, "black") if filled else ("white", colour)
    axes.plot(mean, y, "o", ms=5.5, mfc=face, mec=edge, mew=0.7, label=f"_{name}, mean")


def _rows(axes: Axes, sets: list[tuple[str, str]]) -> None:
    axes.set_yticks(range(len(sets)), [method_label(*one) for one in sets])
    axes.set_ylim(len(sets) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def langspec_seeds(scores: pd.DataFrame, path: Path) -> str:
    """Mean LangSpec-F1 of every set on the base model, a panel a measure.

    Parameters
    ----------
    scores : one row a seed, set and metric, with langspec_f1

    Returns
    -------
    the caption
    """
    frame = scores[(scores["model"] == "base") & (scores["selected_on"] == "base")]
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    metrics = [metric for metric in METRIC_LABELS if metric in set(frame["metric"])]
    with drawing(path, width=2.4 + 2.3 * len(metrics), height=0.7 + 0.23 * len(sets)) as figure:
        for panel, metric in zip(grid(figure, len(metrics), columns=len(metrics), sharey=True), metrics, strict=True):
            part = frame[frame["metric"] == metric]
            for y, (method, budget) in enumerate(sets):
                values = part[(part["method"] == method) & (part["budget"] == budget)]["langspec_f1"]
                _spread(panel, values.to_numpy(float), y, colour=method_colour(method), name="LangSpec-F1")
            _rows(panel, sets)
            panel.set_title(METRIC_LABELS[metric])
            panel.set_xlabel("Mean LangSpec-F1")
    return f"LangSpec-F1 of every set on the base model, mean over languages and random draws. {_DOTS}"


def nll_rise_seeds(rises: pd.DataFrame, path: Path) -> str:
    """NLL rise on the masked language and on the worst other one, a panel a masked language.

    Parameters
    ----------
    rises : one row a seed, set and masked language, with own_rise and worst_other_rise

    Returns
    -------
    the caption
    """
    frame = rises[(rises["model"] == "base") & (rises["selected_on"] == "base")]
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["masked_language"])
    colours = language_colours(languages)
    with drawing(path, width=2.2 + 1.8 * len(languages), height=0.8 + 0.23 * len(sets)) as figure:
        panels = grid(figure, len(languages), columns=len(languages), sharey=True)
        for panel, language in zip(panels, languages, strict=True):
            part = frame[frame["masked_language"] == language]
            for y, (method, budget) in enumerate(sets):
                found = part[(part["method"] == method) & (part["budget"] == budget)]
                other, own = (found[column].to_numpy(float) for column in ("worst_other_rise", "own_rise"))
                _spread(panel, other, y + 0.2, colour="#777777", name="Worst other language", filled=False)
                _spread(panel, own, y - 0.12, colour=colours[language], name="Masked language")
            _rows(panel, sets)
            panel.axvline(0, color="black", linewidth=0.6)
            panel.set_title(
                f"{language_name(language)} masked", color=colours[language], family=LATIN, fontweight="bold"
            )
            panel.set_xlabel("NLL rise (nats per token)")
    return (
        "Rise of the NLL on the masked language (filled) and on the language that suffers most beside it (hollow, "
        f"grey), base model. {_DOTS}"
    )
