"""Figures of the controls: dose-response curves, and random masks beside the methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.output.panels import grid
from crane_lib.output.style import METHOD_COLOURS, METRIC_LABELS, drawing, method_colour, method_label


def dose_response(curves: pd.DataFrame, path: Path) -> str:
    """LangSpec-F1 over the budget, a line a method with its band; a panel a measure.

    Parameters
    ----------
    curves : rows of `crane_lib.output.tables_statistics.dose_curves`, of one measure or several

    Returns
    -------
    the caption
    """
    if curves.empty:
        raise CraneError("figure: no dose-response rows; run the section on controls first")
    metrics = [metric for metric in METRIC_LABELS if metric in set(curves["metric"])]
    methods = [method for method in METHOD_COLOURS if method in set(curves["method"])]
    with drawing(path, width=7.0, height=3.9) as figure:
        panels = grid(figure, len(metrics), columns=len(metrics), sharey=True)
        for panel, metric in zip(panels, metrics, strict=True):
            for method in methods:
                part = curves[(curves["metric"] == metric) & (curves["method"] == method)].sort_values("share")
                if part.empty:
                    continue
                drawn = method.startswith("random")
                low, high = ("lowest", "highest") if drawn else ("low", "high")
                x, colour = 100 * part["share"], method_colour(method)
                panel.fill_between(x, part[low], part[high], color=colour, alpha=0.18, linewidth=0)
                line: dict[str, Any] = {"linestyle": "--"} if drawn else {"marker": "o", "markersize": 3}
                panel.plot(x, part["mean"], color=colour, label=method_label(method), **line)
            panel.set_xscale("log")
            ticks = sorted(set(100 * curves[curves["metric"] == metric]["share"]))
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.set_xlabel("Budget (% of the units, log scale)")
            panel.set_title(f"By {METRIC_LABELS[metric].lower()}")
            panel.grid(axis="y")
        panels[0].set_ylabel("LangSpec-F1 (mean over languages)")
        panels[0].set_ylim(0, 1)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return (
        "LangSpec-F1, mean over languages, of every method over the share of units that it masks. Bands: 95 % "
        "bootstrap intervals over the sampled documents or questions; for random masks (dashed) the lowest to highest "
        "draw. A mask that destroys all languages alike scores up to two thirds, which is where random masks end."
    )
