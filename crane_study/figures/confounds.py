"""Figure of the zero of the scale: masks of parts of one language beside those of languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns

from crane_study.figures.alt_text import tell, tell_line
from crane_study.figures.panels import grid, interval_bars, legend_below
from crane_study.figures.style import drawing, method_colour
from crane_study.labels import budget_label, language_name, method_label, ordered_sets
from crane_study.measure.rows import pick
from crane_study.tables.confounds import ALL

_COLUMNS = 4  # of panels in one row
_NO_PREFERENCE = 0.5  # precision of a mask that hurts the other parts as much as its own


def null_partitions(table: pd.DataFrame, path: Path) -> str:
    """LangSpec-F1 and precision of languages and of parts of one language, a panel per method (`null_table`)."""
    sets = ordered_sets(zip(table["method"], table["budget"], strict=True))
    names = table[["kind", "language"]].drop_duplicates()
    rows = [f"{k}, {language_name(code)}" if code != ALL else k for k, code in names.itertuples(index=False)]
    columns = min(_COLUMNS, len(sets))
    height = (0.7 + 0.2 * len(rows)) * -(-len(sets) // columns) + 0.5
    with drawing(path, width=7.2, height=height) as figure:
        panels = grid(figure, len(sets), columns=columns, sharex=True, sharey=True)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            part, colour = pick(table, method=method, budget=budget), method_colour(method)
            places = np.arange(len(part))
            panel.axvline(_NO_PREFERENCE, color="#AAAAAA", linewidth=0.9, linestyle=":", zorder=0)
            interval_bars(panel, places, part["low"], part["high"], across=True)
            for name, label, marker, face in (
                ("langspec_f1", "LangSpec-F1", "o", colour),
                ("precision", "Precision", "D", "white"),
            ):
                style = {"marker": marker, "s": 26, "facecolor": face, "edgecolor": colour, "linewidth": 1.1}
                sns.scatterplot(x=part[name], y=places, ax=panel, label=label, legend=False, zorder=3, **style)
                limits = {"low": part["low"], "high": part["high"]} if name == "langspec_f1" else {}
                tell(panel, label, rows, part[name], **limits)
            tell_line(panel, "no preference", _NO_PREFERENCE, vertical=True)
            panel.set(yticks=places, xlim=(-0.04, 1.04), xticks=[0, 0.5, 1], ylabel="")
            panel.set_xlabel("By token probability" if number + columns >= len(sets) else "", fontsize=8)
            panel.set_yticklabels(rows)
            panel.set_title(f"{method_label(method)}\n{budget_label(budget)}", fontsize=8)
            panel.axhline(0.5, color="#DDDDDD", linewidth=0.8)
        panels[0].invert_yaxis()
        legend_below(figure, panels[0], columns=2)
    return (
        "The zero of the scale: LangSpec-F1 by token probability of masks of languages, and of masks selected and "
        "measured in the same way for three random thirds, or three subjects, of one language's documents. Means over "
        "the languages or parts; bars are 95 % bootstrap intervals over documents. Diamonds: precision, one half "
        "(dotted) if a mask hurts the other parts as much as its own."
    )
