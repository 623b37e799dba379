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
from crane_study.figures.panels import grid, interval_bars, reference_line
from crane_study.figures.style import drawing, method_colour
from crane_study.labels import METRIC_LABELS, method_label, ordered_sets
from crane_study.measure.rows import EVERYTHING, pick
from crane_study.tables.matched_damage import ALL

SCORES = {"langspec_f1": "LangSpec-F1", "precision": "Precision", "recall": "Recall"}
_RISES = (0, 0.02, 0.1, 0.5)  # nats per token: ticks
_DOTS = "Small dots: the seeds; large: their mean with the 95 % t-interval."


def langspec_seeds(scores: pd.DataFrame, path: Path) -> str:
    """LangSpec-F1, precision and recall of every set on the base model, a line of panels per metric.

    `scores` has one row per seed, set, metric and score.
    """
    frame = scores[(scores["model"] == "base") & (scores["selected_on"] == "base")]
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    metrics = [metric for metric in METRIC_LABELS if metric in set(frame["metric"])]
    wanted = [(metric, score) for metric in metrics for score in SCORES]
    with drawing(path, width=8.4, height=(0.7 + 0.2 * len(sets)) * len(metrics)) as figure:
        panels = grid(figure, len(wanted), columns=len(SCORES), sharey=True)
        for panel, (metric, score) in zip(panels, wanted, strict=True):
            _rows(panel, sets)
            part = pick(frame, metric=metric, score=score)
            values = _by_set(part, sets, "value")
            _spread(panel, values, name=SCORES[score], colours=[method_colour(method) for method, _budget in sets])
            off = pick(part, method=EVERYTHING)["value"]
            if len(off):
                reference_line(panel, method_label(EVERYTHING), float(off.mean()), vertical=True)
            panel.set(title=f"{METRIC_LABELS[metric]}: {SCORES[score]}", xlabel="Mean over languages", ylabel="")
            panel.set_xlim(-0.02, 1.02)
    return (
        "LangSpec-F1, precision and recall of every set on the base model, means over languages and random draws. "
        f"{_DOTS} Dotted line: mean with every neuron silenced."
    )


def matched_damage_seeds(selectivity: pd.DataFrame, path: Path) -> str:
    """Rise on the worst other language of every method at equal damage, mean over languages, a panel per damage.

    `selectivity` has one row per seed, method, damage and masked language (`ALL`: the mean).
    """
    frame = pick(selectivity, masked_language=ALL).assign(budget="").dropna(subset="worst")
    order = frame[frame["damage"] == 1].groupby("method")["worst"].mean().sort_values().index
    sets = [(str(method), "") for method in dict.fromkeys([*order, *frame["method"]])]
    damages = sorted(set(frame["damage"]))
    with drawing(path, width=2.2 + 2.0 * len(damages), height=0.8 + 0.23 * len(sets)) as figure:
        panels = grid(figure, len(damages), columns=len(damages), sharex=True, sharey=True)
        for panel, damage in zip(panels, damages, strict=True):
            _rows(panel, sets)
            values = _by_set(pick(frame, damage=damage), sets, "worst")
            _spread(panel, values, name="Rise", colours=[method_colour(method) for method, _budget in sets])
            panel.set(title=f"Masked language +{damage:g}", xlabel="Rise on the worst other", ylabel="")
            panel.set_xscale("symlog", linthresh=0.02)
            panel.set_xlim(left=0)
            panel.set_xticks(_RISES, [f"{rise:g}" for rise in _RISES])
            panel.minorticks_off()
    return (
        "Rise of the NLL (nats per token; linear to 0.02, then logarithmic) on the other language that suffers most, "
        "once the masked language has lost 0.5, 1 and 2 nats per token; mean over the masked languages. Lower is more "
        f"selective. {_DOTS}"
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


def _spread(axes: Axes, values: dict[str, np.ndarray], colours: list[str], *, name: str) -> None:
    """Draw the seeds of each row as small dots, their mean as a large one with its t-interval; none without values."""
    columns = {"row": list(values), "value": list(values.values()), "colour": colours}
    found = pd.DataFrame({**columns, "place": np.arange(len(values))})
    found = found[found["value"].map(len) > 0]
    seeds = found.explode("value").astype({"value": float})
    common: dict[str, Any] = {"x": "value", "y": "place", "hue": "colour", "ax": axes, "legend": False}
    palette = {colour: colour for colour in colours}
    sns.scatterplot(seeds, **common, palette=palette, s=8, alpha=0.5, linewidth=0)
    half = found["value"].map(_half_width)
    means = found.assign(value=found["value"].map(np.mean))
    low, high = means["value"] - half, means["value"] + half
    interval_bars(axes, means["place"], low, high, across=True, ecolor=list(means["colour"]), capsize=0, elinewidth=1.2)
    sns.scatterplot(means, **common, palette=palette, s=30, edgecolor="black", linewidth=0.7, zorder=3)
    tell(axes, f"{name}, mean and 95 % t-interval", means["row"], means["value"], low=low, high=high)
    tell(axes, f"{name}, seeds", found["row"], [", ".join(map(number, some)) for some in found["value"]])


def _half_width(values: np.ndarray) -> float:
    """Half the width of the 95 % t-interval of a mean; NaN for a single value."""
    return float(t.ppf(0.975, len(values) - 1) * sem(values)) if len(values) > 1 else float("nan")
