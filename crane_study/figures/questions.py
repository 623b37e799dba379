"""Figure of accuracy, separated by benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns

from crane_study.figures.alt_text import tell
from crane_study.figures.panels import (
    WIDTH,
    dodged,
    grid,
    interval_bars,
    language_handles,
    legend_below,
    reference_line,
)
from crane_study.figures.style import drawing, language_colours
from crane_study.labels import MODEL_LABELS, language_name, method_label, ordered_languages, ordered_sets
from crane_study.measure.rows import CHANCE


def benchmark_accuracy(table: pd.DataFrame, path: Path) -> str:
    """Accuracy (`accuracy_by_benchmark`): a panel per benchmark, a row per model or set, a dot per language."""
    compares_models = set(table["method"]) == {"none"}
    keys = list(table["model"] if compares_models else zip(table["method"], table["budget"], strict=True))
    rows: list[Any] = list(dict.fromkeys(keys)) if compares_models else ordered_sets(keys)
    names = [str(MODEL_LABELS.get(key, key)) if compares_models else method_label(*key) for key in rows]
    table = table.assign(row=[rows.index(key) for key in keys])
    languages, benchmarks = ordered_languages(table["language"]), sorted(set(table["benchmark"]))
    with drawing(path, width=7.0, height=1.3 + 0.36 * len(rows)) as figure:
        panels = grid(figure, len(benchmarks), columns=len(benchmarks), sharey=True, sharex=True)
        for panel, benchmark in zip(panels, benchmarks, strict=True):
            reference_line(panel, "Chance", CHANCE["accuracy"], vertical=True)
            of_language = zip(WIDTH * dodged(len(languages)), language_colours(languages).items(), strict=True)
            for offset, (language, colour) in of_language:
                part = table[(table["benchmark"] == benchmark) & (table["language"] == language)]
                for hollow, kinds in ((False, ["none", "own"]), (True, ["others"])):
                    dots = part[part["masked"].isin(kinds)].sort_values("row")
                    if dots.empty:
                        continue
                    places, face = dots["row"] + offset, "white" if hollow else colour
                    interval_bars(panel, places, dots["low"], dots["high"], across=True, ecolor=colour, capsize=0)
                    look = {"s": 20, "color": face, "edgecolor": colour, "linewidth": 0.9, "legend": False, "zorder": 3}
                    sns.scatterplot(x=dots["accuracy"], y=places, ax=panel, **look)
                    label = language_name(language) + (", another language masked" if hollow else "")
                    rows_told = [names[row] for row in dots["row"]]
                    tell(panel, label, rows_told, dots["accuracy"], low=dots["low"], high=dots["high"])
            panel.set(title=benchmark, xlabel="Accuracy", ylabel="", xlim=(-0.02, 1.02))
            panel.grid(axis="x")
        panels[0].set_yticks(np.arange(len(rows)), names)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = [*language_handles(languages), *(line for line in panels[0].lines if line.get_linestyle() == ":")]
        legend_below(figure, handles=handles)
    under = (
        " Filled: nothing masked (first row), or the units of the language itself; hollow: those of another language, "
        "mean over them."
    )
    return (
        f"Accuracy on four-way questions by benchmark and language.{'' if compares_models else under} Lines: Wilson's "
        "95 % intervals, of single masks. Dotted line: chance."
    )
