"""Figures of steering: score against strength, and the score of every pair of languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from crane_study.figures.alt_text import tell
from crane_study.figures.panels import grid, interval_bars, language_matrices, legend_below, reference_line
from crane_study.figures.style import drawing, method_colour
from crane_study.labels import method_label
from crane_study.measure.steering import ASKED, GAIN, MEAN, NONE, PUSH

_PANELS = {
    GAIN: ("Activations multiplied", "Factor"),
    MEAN: ("Mean activation added", "Times the mean"),
    PUSH: ("Difference of means added", "Times the difference"),
}
_ROWS = {"score": "Steering score", "both": "In the language\nand relevant"}
_DASHES = ("-", "--", ":", "-.")  # of layers


def steering_strengths(table: pd.DataFrame, path: Path) -> str:
    """Score and `both` (`strengths`) against strength: a column for each way to steer, a line per method and layer."""
    shown = [how for how in _PANELS if (table["how"] == how).any()]
    with drawing(path, width=7.2, height=4.6) as figure:
        panels = grid(figure, len(_ROWS) * len(shown), columns=len(shown), sharey=True)
        handles: dict[str, Any] = {}
        for number, panel in enumerate(panels):
            value, how = list(_ROWS)[number // len(shown)], shown[number % len(shown)]
            _lines(panel, table[table["how"] == how], value)
            plain = table[~table["how"].isin(list(_PANELS))].set_index("method")[value]
            reference_line(panel, method_label(ASKED), float(plain[ASKED]))
            panel.axhline(plain[NONE], color="#AAAAAA", linewidth=1, label=method_label(NONE))
            tell(panel, method_label(NONE), ["all"], [float(plain[NONE])])
            panel.set(ylim=(-0.03, 1.03), ylabel=_ROWS[value] if how == shown[0] else "")
            panel.set_title(_PANELS[how][0] if value == "score" else "")
            panel.set_xlabel(_PANELS[how][1] if value == "both" else "")
            found, labels = panel.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        last = [method_label(ASKED), method_label(NONE)]
        order = [*(name for name in handles if name not in last), *last]
        legend_below(figure, handles=[handles[name] for name in order], columns=3)
    return (
        "Steering towards another language than the prompt's, against its strength, means over all ordered pairs of "
        "languages. Above: harmonic mean of language forcing and relevance. Below: relevance of answers in the wanted "
        "language, 0 of others; where only the upper line rises, some answers are in the language and other ones to "
        "the point. Lines: 95 % bootstrap intervals over prompts. Dotted: the model as it is, asked in the wanted "
        "language; grey: as it is, asked in the other one."
    )


def _lines(panel: Axes, part: pd.DataFrame, value: str) -> None:
    """A line with intervals for each method and layer; strengths are evenly spaced."""
    methods, strengths = list(dict.fromkeys(part["method"])), sorted(part["strength"].unique())
    for (method, layer), own in part.groupby(["method", "layer"], sort=False):
        layers = sorted(part.loc[part["method"] == method, "layer"].unique())
        label = method_label(method) + (f", layer {layer}" if layer >= 0 else "")
        offset = 0.07 * (methods.index(method) - (len(methods) - 1) / 2 + layers.index(layer))
        places, colour = [strengths.index(one) + offset for one in own["strength"]], method_colour(method)
        style = {"color": colour, "linestyle": _DASHES[layers.index(layer) % len(_DASHES)], "marker": "o"}
        low, high = own[f"{value}_low"], own[f"{value}_high"]
        interval_bars(panel, places, low, high, ecolor=colour, capsize=0)
        sns.lineplot(x=places, y=own[value], ax=panel, label=label, legend=False, **style)
        tell(panel, label, [f"{one:g}" for one in own["strength"]], own[value], low=low, high=high)
    panel.set_xticks(range(len(strengths)), [f"{one:g}" for one in strengths])
    panel.set_xlim(-0.4, len(strengths) - 0.6)


def steering_pairs(table: pd.DataFrame, path: Path) -> str:
    """Heat maps of the score (`by_pair`) of every pair of languages, one for each method and way to steer."""
    part = table[table["how"].isin(list(_PANELS))]
    cells = part.rename(columns={"how": "budget", "prompt_language": "row", "wanted_language": "column"})
    cells = cells.assign(value=cells["score"])
    cells["text"] = [f"{row.score:.2f}\n{row.forcing:.2f}\n{row.relevance:z.2f}" for row in cells.itertuples()]
    language_matrices(cells, path, "Steering score", across="Wanted", up="Prompt in", signed=False)
    return (
        "Steering score by language of the prompts (rows) and wanted language (columns), at strengths that were chosen "
        "on other prompts. Below each score are its parts: the share of answers in the wanted language, and relevance."
    )
