"""Figures of the ground truth: how much of it a method's sets hold, and relevance against the effect of ablation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns

from crane_study.figures.alt_text import tell, tell_line
from crane_study.figures.panels import WIDTH, dodged, grid, interval_bars, legend_below
from crane_study.figures.style import drawing, language_colours
from crane_study.labels import language_name, method_label, ordered_languages, ordered_sets

_PANELS = {"share": "Effect on the language", "specific_share": "Effect beyond the other languages"}
_MOST_LAYERS = 8  # that a legend names
_ENDS = -200, 300  # of the axes, in percent: a quotient of effects near 0 may be thousands


def captured_effects(table: pd.DataFrame, path: Path) -> str:
    """Share of the effect found by ablation in each method's sets (`captured`): a row per set, a dot per language."""
    sets = ordered_sets(zip(table["method"], table["budget"], strict=True))
    names = [method_label(method, budget if budget == "published" else "") for method, budget in sets]
    languages = ordered_languages(table["language"])
    table = table.assign(row=[sets.index(key) for key in zip(table["method"], table["budget"], strict=True)])
    with drawing(path, width=7.0, height=1.3 + 0.36 * len(sets)) as figure:
        panels = grid(figure, len(_PANELS), columns=len(_PANELS), sharey=True)
        for panel, (value, title) in zip(panels, _PANELS.items(), strict=True):
            panel.axvline(0, color="#BDBDBD", linewidth=0.8)
            for offset, (language, colour) in zip(
                WIDTH * dodged(len(languages)), language_colours(languages).items(), strict=True
            ):
                part = table[table["language"] == language].sort_values("row")
                low, high = 100 * part[f"{value}_low"].astype(float), 100 * part[f"{value}_high"].astype(float)
                label, places, shares = language_name(language), part["row"] + offset, 100 * part[value].astype(float)
                interval_bars(panel, places, low, high, across=True, ecolor=colour, elinewidth=1.1, capsize=0)
                dots = {"color": colour, "s": 18, "linewidth": 0, "label": label, "legend": False, "zorder": 3}
                sns.scatterplot(x=shares, y=places, ax=panel, **dots)
                tell(panel, label, [names[row] for row in part["row"]], shares, low=low, high=high)
            panel.axvline(100, color="#222222", linestyle="--", linewidth=1, label="Chosen by ablation")
            tell_line(panel, "Chosen by ablation", 100, vertical=True)
            low_end, high_end = panel.get_xlim()
            ends = max(low_end, _ENDS[0]), min(high_end, _ENDS[1])
            panel.set(title=title, xlabel="% of what ablation finds", ylabel="", xlim=ends)
            panel.grid(axis="x")
        panels[0].set_yticks(range(len(sets)), names)
        panels[0].set_ylim(len(sets) - 0.5, -0.5)
        legend_below(figure, panels[0])
    sampled = " and over resamples of the ablated neurons, which are a random sample" if "drawn" in table else ""
    return (
        "Summed effect of the single neurons in each method's sets, as a share of what choosing as many neurons by "
        "ablating every one of them finds (dashed), measured on documents that neither choice saw. Left the rise of "
        "the language's own NLL, right that rise minus the largest one in another language. Lines: 95 % range over "
        f"random halvings of the documents{sampled}; a method may exceed 100 %, as its statistics come from more text. "
        "A language is left out where choosing by ablation may find nothing either (its range reaches 0). "
        f"The axes end at {_ENDS[0]} and {_ENDS[1]} %."
    )


def relevance_against_effect(values: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> str:
    """Mean relevance of every neuron against the cost of its ablation, a panel per language, a colour per layer.

    `values` has both of each language, (L, I): shares of its summed absolute relevance, and nats per token.
    """
    languages = ordered_languages(values)
    layers = len(next(iter(values.values()))[0])
    colours = sns.color_palette("viridis", as_cmap=True)(np.linspace(0, 0.92, layers))
    with drawing(path, width=7.0, height=2.9) as figure:
        panels = grid(figure, len(languages), columns=len(languages))
        for panel, language in zip(panels, languages, strict=True):
            relevance, effect = values[language]
            panel.axhline(0, color="#BDBDBD", linewidth=0.8, zorder=0)
            panel.axvline(0, color="#BDBDBD", linewidth=0.8, zorder=0)
            for layer in range(layers):
                known, label = np.isfinite(effect[layer]), f"Layer {layer}"
                x, y = 100 * relevance[layer][known], 1000 * effect[layer][known]
                dots = {"s": 5, "alpha": 0.7, "linewidth": 0, "label": label, "legend": False}
                sns.scatterplot(x=x, y=y, ax=panel, color=colours[layer], **dots)
                order = np.argsort(x, kind="stable")
                tell(panel, label, x[order], y[order])
            panel.set_title(language_name(language), color=language_colours(languages)[language])
            panel.set_xlabel("Relevance (% of all)")
        panels[0].set_ylabel("NLL rise without the neuron\n(thousandths of a nat per token)")
        if layers <= _MOST_LAYERS:
            handles = panels[0].get_legend_handles_labels()[0]
            figure.legend(handles=handles, loc="outside lower center", ncols=layers, markerscale=3)
    effect = next(iter(values.values()))[1]
    measured = int(np.isfinite(effect).sum())
    drawn = "Every neuron of the model"
    if measured < effect.size:
        drawn = (
            f"A random sample of {measured:,} of the model's {effect.size:,} neurons, important ones drawn more often"
        )
    colour = "" if layers <= _MOST_LAYERS else " Colours run from dark (the first layer) to light (the last)."
    return (
        f"{drawn}: its mean AttnLRP relevance, as a share of the language's summed absolute "
        "relevance, against the rise of the language's NLL when that neuron alone is zeroed. Relevance comes from its "
        "own split of the texts, the effect from a sample of the held-out documents; the table of reliability says how "
        f"noisy it is.{colour}"
    )
