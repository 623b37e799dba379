"""Figures over model seeds: every seed a dot, the mean with its t-interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.stats import sem, t

from crane_study.figures.alt_text import number, tell
from crane_study.figures.panels import grid, interval_bars
from crane_study.figures.style import LATIN, NEUTRAL, drawing, language_colours, method_colour
from crane_study.labels import METRIC_LABELS, language_name, method_label, ordered_languages, ordered_sets

_DOTS = "Small dots: the seeds; large: their mean with the 95 % t-interval."


def langspec_seeds(scores: pd.DataFrame, path: Path) -> str:
    """Mean LangSpec-F1 of every set on the base model, a panel per metric; one row per seed, set and metric."""
    frame = scores[(scores["model"] == "base") & (scores["selected_on"] == "base")]
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    metrics = [metric for metric in METRIC_LABELS if metric in set(frame["metric"])]
    with drawing(path, width=2.4 + 2.3 * len(metrics), height=0.7 + 0.23 * len(sets)) as figure:
        for panel, metric in zip(grid(figure, len(metrics), columns=len(metrics), sharey=True), metrics, strict=True):
            _rows(panel, sets)
            values = _by_set(frame[frame["metric"] == metric], sets, "langspec_f1")
            _spread(panel, values, name="LangSpec-F1", colours=[method_colour(method) for method, _budget in sets])
            panel.set(title=METRIC_LABELS[metric], xlabel="Mean LangSpec-F1", ylabel="")
    return f"LangSpec-F1 of every set on the base model, mean over languages and random draws. {_DOTS}"


def nll_rise_seeds(rises: pd.DataFrame, path: Path) -> str:
    """NLL rise on the masked language (own_rise) and on the worst other one, a panel per masked language."""
    frame = rises[(rises["model"] == "base") & (rises["selected_on"] == "base")]
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["masked_language"])
    with drawing(path, width=2.2 + 1.8 * len(languages), height=0.8 + 0.23 * len(sets)) as figure:
        panels = grid(figure, len(languages), columns=len(languages), sharey=True)
        for panel, (language, colour) in zip(panels, language_colours(languages).items(), strict=True):
            part = frame[frame["masked_language"] == language]
            _rows(panel, sets)
            panel.axvline(0, color="black", linewidth=0.6)
            others, own = _by_set(part, sets, "worst_other_rise"), _by_set(part, sets, "own_rise")
            grey, own_colour = [NEUTRAL] * len(sets), [colour] * len(sets)
            _spread(panel, others, name="Worst other language", colours=grey, shift=0.2, hollow=True)
            _spread(panel, own, name="Masked language", colours=own_colour, shift=-0.12)
            panel.set_title(f"{language_name(language)} masked", color=colour, family=LATIN, fontweight="bold")
            panel.set(xlabel="NLL rise (nats per token)", ylabel="")
    return (
        "Rise of the NLL on the masked language (filled) and on the other language that suffers most (hollow, grey), "
        f"base model. {_DOTS}"
    )


def _by_set(frame: pd.DataFrame, sets: list[tuple[str, str]], column: str) -> dict[str, np.ndarray]:
    """Name of each set -> its finite values over the seeds, empty if there are none."""
    groups = {key: part[column].dropna().to_numpy(float) for key, part in frame.groupby(["method", "budget"])}
    return {method_label(*key): groups.get(key, np.array([])) for key in sets}


def _rows(axes: Axes, sets: list[tuple[str, str]]) -> None:
    """One tick per set, from the top."""
    axes.set_yticks(range(len(sets)), [method_label(*one) for one in sets])
    axes.set_ylim(len(sets) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _spread(
    axes: Axes,
    values: dict[str, np.ndarray],
    colours: list[str],
    *,
    name: str,
    shift: float = 0.0,
    hollow: bool = False,
) -> None:
    """Draw the seeds of each row as small dots, their mean as a large one (a ring if `hollow`) with its t-interval.

    Rows without values are left out; the others' dots are shifted from their ticks.
    """
    columns = {"row": list(values), "value": list(values.values()), "colour": colours}
    found = pd.DataFrame({**columns, "place": np.arange(len(values)) + shift})
    found = found[found["value"].map(len) > 0]
    seeds = found.explode("value").astype({"value": float})
    common: dict[str, Any] = {"x": "value", "y": "place", "hue": "colour", "ax": axes, "legend": False}
    palette = {colour: colour for colour in colours}
    sns.scatterplot(seeds, **common, palette=palette, s=8, alpha=0.5, linewidth=0)
    half = found["value"].map(_half_width)
    means = found.assign(value=found["value"].map(np.mean))
    low, high = means["value"] - half, means["value"] + half
    interval_bars(axes, means["place"], low, high, across=True, ecolor=list(means["colour"]), capsize=0, elinewidth=1.2)
    faces, edge = (dict.fromkeys(colours, "white"), colours[0]) if hollow else (palette, "black")
    sns.scatterplot(means, **common, palette=faces, s=30, edgecolor=edge, linewidth=0.7, zorder=3)
    tell(axes, f"{name}, mean and 95 % t-interval", means["row"], means["value"], low=low, high=high)
    tell(axes, f"{name}, seeds", found["row"], [", ".join(map(number, some)) for some in found["value"]])


def _half_width(values: np.ndarray) -> float:
    """Half the width of the 95 % t-interval of a mean; NaN for a single value."""
    return float(t.ppf(0.975, len(values) - 1) * sem(values)) if len(values) > 1 else float("nan")
