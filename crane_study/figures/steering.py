"""Figures of steering: score against strength, and the score of every pair of languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns

from crane_study.figures.alt_text import tell
from crane_study.figures.panels import grid, interval_bars, language_matrices, legend_below, reference_line
from crane_study.figures.style import drawing, method_colour
from crane_study.labels import method_label, ordered_sets
from crane_study.measure.steering import ASKED, GAIN, MEAN, NONE, PUSH

_PANELS = {
    GAIN: ("Activations multiplied", "Factor"),
    MEAN: ("Mean activation added", "Times the mean"),
    PUSH: ("Difference of means added", "Times the difference"),
}
_DASHES = ("-", "--", ":", "-.")  # of layers


def steering_strengths(table: pd.DataFrame, path: Path) -> str:
    """Score (`strengths`) against strength: a panel for each way to steer, a line for each method and layer."""
    plain = table[~table["how"].isin(list(_PANELS))].set_index("method")["score"]
    shown = [how for how in _PANELS if (table["how"] == how).any()]
    methods = [method for method, _ in ordered_sets((m, "") for m in table.loc[table["how"].isin(shown), "method"])]
    with drawing(path, width=7.2, height=2.9) as figure:
        panels = grid(figure, len(shown), columns=len(shown), sharey=True)
        handles = {}
        for panel, how in zip(panels, shown, strict=True):
            part = table[table["how"] == how]
            for (method, layer), own in part.groupby(["method", "layer"], sort=False):
                layers = sorted(part.loc[part["method"] == method, "layer"].unique())
                label = method_label(method) + (f", layer {layer}" if layer >= 0 else "")
                ranks, colour = np.arange(len(own)), method_colour(method)
                style = {"color": colour, "linestyle": _DASHES[layers.index(layer) % len(_DASHES)], "marker": "o"}
                offset = 0.06 * (methods.index(method) - (len(methods) - 1) / 2)
                interval_bars(panel, ranks + offset, own["low"], own["high"], ecolor=colour, capsize=0)
                sns.lineplot(x=ranks + offset, y=own["score"], ax=panel, label=label, legend=False, **style)
                names = [f"{strength:g}" for strength in own["strength"]]
                tell(panel, label, names, own["score"], low=own["low"], high=own["high"])
                panel.set_xticks(ranks, names)
                panel.set_xlim(-0.4, len(own) - 0.6)
            reference_line(panel, method_label(ASKED), float(plain[ASKED]))
            panel.axhline(plain[NONE], color="#AAAAAA", linewidth=1, label=method_label(NONE))
            tell(panel, method_label(NONE), ["all"], [float(plain[NONE])])
            panel.set(title=_PANELS[how][0], xlabel=_PANELS[how][1], ylim=(-0.03, 1.03))
            found, labels = panel.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        panels[0].set_ylabel("Steering score")
        last = [method_label(ASKED), method_label(NONE)]
        order = [*(name for name in handles if name not in last), *last]
        legend_below(figure, handles=[handles[name] for name in order], columns=3)
    return (
        "Steering towards another language than the prompt's: harmonic mean of language forcing and relevance, mean "
        "over all ordered pairs of languages, against the strength of steering. Lines: 95 % bootstrap intervals over "
        "prompts. Dotted: the model as it is, asked in the wanted language; grey: as it is, asked in the other one."
    )


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
