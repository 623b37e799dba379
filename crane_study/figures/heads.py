"""Figures of where a language lives: relevance by layer in neurons and heads, and what masks of either cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from crane_lib.neurons import HEAD, NEURON
from crane_study.figures.alt_text import tell
from crane_study.figures.panels import grid, grid_height, label_outside, legend_below
from crane_study.figures.style import drawing
from crane_study.labels import language_name, ordered_languages
from crane_study.measure.rows import pick

UNIT_COLOURS = {NEURON: "#332288", HEAD: "#C7701E"}
UNIT_LABELS = {NEURON: "MLP neurons", HEAD: "Attention heads"}
_METHOD, _RANDOM = "contrast", "random_global"


def where_language_lives(table: pd.DataFrame, path: Path) -> str:
    """Share of relevance and of contrast in the neurons and heads of every layer, a panel per language."""
    languages = ordered_languages(table["language"])
    with drawing(path, width=7.2, height=grid_height(len(languages), panel=2.1, rest=0.5)) as figure:
        panels = grid(figure, len(languages), sharex=True, sharey=True)
        for panel, language in zip(panels, languages, strict=True):
            for unit, colour in UNIT_COLOURS.items():
                part = pick(table, language=language, unit=unit)
                for name, style in (("relevance", "-"), ("contrast", ":")):
                    line = {"color": colour, "linestyle": style, "marker": "o", "markersize": 4, "legend": False}
                    sns.lineplot(x=part["layer"], y=100 * part[name], ax=panel, **line)
                    tell(panel, f"{UNIT_LABELS[unit]}, {name} (%)", part["layer"], 100 * part[name])
            panel.set_title(language_name(language))
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            panel.grid(axis="y")
        panels[0].set_ylim(0, 106 * table[["relevance", "contrast"]].max(axis=None))
        label_outside(panels, across="Layer", up="Share (%)")
        handles = [*_unit_handles(), *(_line(name, style) for name, style in (("relevance", "-"), ("contrast", ":")))]
        legend_below(figure, handles=handles)
    return (
        "Where a language lives: share of its positive relevance (solid), and of its positive contrast to the other "
        "languages (dotted), in the MLP neurons and in the attention heads of every layer; a language's shares add up "
        "to 100 %. Means over documents."
    )


def unit_damage(rises: pd.DataFrame, path: Path) -> str:
    """Rise of the NLL against the share of the weights that is masked, a panel per masked language (`unit_rises`)."""
    languages = ordered_languages(rises["evaluation_language"])
    ticks = sorted(100 * rises["budget"].astype(float).unique())
    with drawing(path, width=7.2, height=grid_height(len(languages), panel=2.4, rest=0.5)) as figure:
        panels = grid(figure, len(languages), sharex=True, sharey=True)
        for panel, language in zip(panels, languages, strict=True):
            for unit in UNIT_COLOURS:
                chosen = pick(rises, unit=unit, method=_METHOD, masked_language=language)
                own = pick(chosen, evaluation_language=language)
                others = chosen[chosen["evaluation_language"] != language]
                worst = others.loc[others.groupby("budget", sort=False)["rise"].idxmax()]
                _curve(panel, "masked language", own, unit, "-")
                _curve(panel, "worst other", worst, unit, ":")
                random = pick(rises, unit=unit, method=_RANDOM, evaluation_language=language)
                _curve(panel, "masked language, random masks", random, unit, "--")
            panel.axhline(0, color="#AAAAAA", linewidth=0.9, zorder=0)
            panel.set_title(f"{language_name(language)} masked")
            panel.set_xscale("log")
            panel.set_xticks(ticks)
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:.2g}"))
            panel.minorticks_off()
            panel.set_yscale("symlog", linthresh=0.1)
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        label_outside(panels, across="Masked weights (%)", up="Rise of the NLL")
        styles = (("masked language", "-"), ("worst other", ":"), ("masked, random", "--"))
        legend_below(figure, handles=[*_unit_handles(), *(_line(name, style) for name, style in styles)], columns=5)
    return (
        "Rise of the NLL (nats per token) when the neurons, or the attention heads, of largest relevance contrast for "
        "a language are zeroed, against their share of the layers' weights: on that language (solid), on the other "
        "language that suffers most (dotted), and on that language under random masks of as many units (dashed, mean "
        "over draws). Bands: 95 % bootstrap intervals over documents."
    )


def _curve(panel: Axes, name: str, part: pd.DataFrame, unit: str, style: str) -> None:
    """One unit's curve with its band."""
    at, colour = 100 * part["budget"].astype(float), UNIT_COLOURS[unit]
    panel.fill_between(at, part["low"], part["high"], color=colour, alpha=0.08, linewidth=0)
    line = {"color": colour, "linestyle": style, "marker": "o", "markersize": 3.5, "legend": False}
    sns.lineplot(x=at, y=part["rise"], ax=panel, **line)
    tell(panel, f"{UNIT_LABELS[unit]}, {name}", at, part["rise"], low=part["low"], high=part["high"])


def _line(name: str, style: Any) -> Line2D:
    return Line2D([], [], color="black", linestyle=style, label=name.capitalize())


def _unit_handles() -> list[Line2D]:
    return [Line2D([], [], color=colour, label=UNIT_LABELS[unit]) for unit, colour in UNIT_COLOURS.items()]
