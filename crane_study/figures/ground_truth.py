"""Figures of the ground truth: how much of it a method's sets hold, and relevance against the effect of ablation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from crane_study.figures.panels import grid
from crane_study.figures.style import drawing, language_colours
from crane_study.labels import language_name, method_label, ordered_languages, ordered_sets

_PANELS = {"share": "Effect on the language", "specific_share": "Effect beyond the other languages"}


def captured_effects(table: pd.DataFrame, path: Path) -> str:
    """Share of the effect found by ablation that lies in each method's sets, a row a method, a dot a language.

    Parameters
    ----------
    table : of `crane_study.uncertainty.ground_truth.captured`

    Returns
    -------
    the caption
    """
    sets = ordered_sets(zip(table["method"], table["budget"], strict=True))
    languages = ordered_languages(table["language"])
    colours = language_colours(languages)
    with drawing(path, width=7.0, height=1.3 + 0.36 * len(sets)) as figure:
        panels = grid(figure, len(_PANELS), columns=len(_PANELS), sharey=True)
        for panel, (value, title) in zip(panels, _PANELS.items(), strict=True):
            for place, language in enumerate(languages):
                part = table[table["language"] == language].set_index(["method", "budget"])
                shift = 0.22 * (place - (len(languages) - 1) / 2)
                for row, key in enumerate(sets):
                    if key not in part.index:
                        continue
                    at, columns = row + shift, [value, f"{value}_low", f"{value}_high"]
                    found = 100 * part.loc[key, columns].astype(float)
                    panel.plot(found.iloc[1:], [at, at], color=colours[language], linewidth=1.1, label="_95 % range")
                    label = language_name(language) if row == 0 else "_"
                    panel.plot(found.iloc[0], at, "o", color=colours[language], markersize=4, label=label)
            panel.axvline(100, color="#222222", linestyle="--", linewidth=1, label="Chosen by ablation")
            panel.axvline(0, color="#BDBDBD", linewidth=0.8, label="_Nothing")
            panel.set_title(title)
            panel.set_xlabel("% of what ablation finds")
            panel.grid(axis="x")
        names = [method_label(method, budget if budget == "published" else "") for method, budget in sets]
        panels[0].set_yticks(range(len(sets)), names)
        panels[0].set_ylim(len(sets) - 0.5, -0.5)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return (
        "Summed effect of the single neurons in each method's sets, as a share of what choosing as many neurons by "
        "ablating every one of them finds (dashed), measured on documents that neither choice saw. Left the rise of "
        "the language's own NLL, right that rise minus the largest one in another language. Lines: 95 % range over "
        "random halvings of the documents; a method may exceed 100 %, for its statistics come from more text."
    )


def relevance_against_effect(values: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> str:
    """Mean relevance of every neuron against what its ablation costs, a panel a language, a colour a layer.

    Parameters
    ----------
    values : language -> relevance (L, I), shares of the language's summed absolute relevance, and effect (L, I) in nats
        a token

    Returns
    -------
    the caption
    """
    languages = ordered_languages(values)
    layers = len(next(iter(values.values()))[0])
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, layers))
    with drawing(path, width=7.0, height=2.9) as figure:
        panels = grid(figure, len(languages), columns=len(languages))
        for panel, language in zip(panels, languages, strict=True):
            relevance, effect = values[language]
            for layer in range(layers):
                panel.plot(
                    100 * relevance[layer], 1000 * effect[layer], ".", color=colours[layer], markersize=3, alpha=0.7,
                    markeredgewidth=0, label=f"Layer {layer}",
                )  # fmt: skip
            panel.axhline(0, color="#BDBDBD", linewidth=0.8, zorder=0, label="_No effect")
            panel.axvline(0, color="#BDBDBD", linewidth=0.8, zorder=0, label="_No relevance")
            panel.set_title(language_name(language), color=language_colours(languages)[language])
            panel.set_xlabel("Relevance (% of all)")
        panels[0].set_ylabel("NLL rise without the neuron\n(thousandths of a nat a token)")
        handles, labels = panels[0].get_legend_handles_labels()
        if layers <= 8:
            figure.legend(handles, labels, loc="outside lower center", ncols=layers, markerscale=3)
    return (
        "Every neuron of the model: its mean AttnLRP relevance, as a share of the language's summed absolute "
        "relevance, against the rise of the language's NLL when that neuron alone is zeroed. Relevance comes from its "
        "own split of the texts, the effect from a sample of the held-out documents; the table of reliability says how "
        "noisy it is."
    )
