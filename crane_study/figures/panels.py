"""Pieces that several figures are made of: a grid of panels, a heat map with numbers, lines or bars by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from crane_study.figures.style import LATIN, ink_on, language_colours, method_colour
from crane_study.labels import budget_label, language_name, method_label

_MOST_BARS = 8  # with more layers, lines


def grid(figure: Figure, count: int, *, columns: int, **options: Any) -> list[Axes]:
    """So many panels in rows of `columns`, without the empty places of the last row."""
    columns = min(columns, count)
    axes = figure.subplots(-(-count // columns), columns, squeeze=False, **options).ravel()
    for spare in axes[count:]:
        spare.set_visible(False)
    return list(axes[:count])


def grid_height(count: int, *, columns: int, panel: float, rest: float = 0.4) -> float:
    """Height in inches of a grid whose panels are `panel` high."""
    return panel * -(-count // min(columns, max(count, 1))) + rest


def scale_around_zero(values: pd.Series) -> tuple[tuple[float, float], Normalize, Colormap]:
    """Limits of a colour bar from zero, or from below it where a value is, and a scale and colours around zero."""
    known = [0.0, 1e-9, *values.dropna()]
    low, high = float(min(known)), float(max(known))
    largest = max(high, -low)
    limits = (low if low < -0.02 * largest else 0.0, largest)
    return limits, Normalize(-largest, largest), matplotlib.colormaps["RdBu_r"].with_extremes(bad="#EDEDED")


def language_cells(
    cells: pd.DataFrame, languages: Sequence[str], *, value: str, text: Callable[[pd.Series], str]
) -> tuple[np.ndarray, list[list[str]]]:
    """Values and texts of a heat map, masked language by evaluated one; NaN and a dash where there is no value.

    Parameters
    ----------
    cells : rows with masked_language, evaluation_language and the column `value`
    """
    values = np.full((len(languages), len(languages)), np.nan)
    texts = [["–"] * len(languages) for _ in languages]
    for _number, cell in cells.iterrows():
        i, j = languages.index(cell["masked_language"]), languages.index(cell["evaluation_language"])
        if np.isfinite(cell[value]):
            values[i, j], texts[i][j] = cell[value], text(cell)
    return values, texts


def language_heat_map(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    *,
    languages: Sequence[str],
    colours: Colormap,
    scale: Normalize,
) -> AxesImage:
    """Heat map languages x languages with a text in every cell; NaN cells are grey.

    Parameters
    ----------
    values, texts : (rows, columns), both of `languages`; what follows a text's first line is set smaller below it
    """
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, norm=scale, aspect="equal")
    axes.set_facecolor("#EDEDED")
    for row, column in np.ndindex(values.shape):
        known = np.isfinite(values[row, column])
        ink = ink_on(colours(scale(values[row, column]))) if known else "black"
        first, _, rest = texts[row][column].partition("\n")
        lift = 0.16 if rest else 0.0
        axes.text(column, row - lift, first, ha="center", va="center", color=ink, fontsize=7.5)
        axes.text(column, row + lift, rest, ha="center", va="center", color=ink, fontsize=5.8, linespacing=1.0)
    axes.set_xticks(range(len(languages)), languages)
    axes.set_yticks(range(len(languages)), languages)
    axes.tick_params(length=0, pad=2)
    for code, colour in language_colours(languages).items():
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()[list(languages).index(code)].set(color=colour, family=LATIN, fontweight="bold")
    axes.spines[:].set_visible(False)
    return image


def name_panel(axes: Axes, method: str, budget: str, *, note: str = "") -> None:
    """Title of a panel on one method and budget, over a line in the method's colour."""
    axes.set_title(f"{method_label(method)}\n{budget_label(budget)} {note}".rstrip(), fontsize=8)
    axes.spines["top"].set(visible=True, color=method_colour(method), linewidth=3)


def by_layer(axes: Axes, values: Mapping[str, np.ndarray]) -> None:
    """One value a layer and language: bars side by side, lines where there are many layers."""
    colours = language_colours(values)
    layers = np.arange(len(next(iter(values.values()))))
    width = 0.8 / len(values)
    for number, (language, heights) in enumerate(values.items()):
        style: dict[str, Any] = {"color": colours[language], "label": language_name(language)}
        if len(layers) <= _MOST_BARS:
            axes.bar(layers + (number - (len(values) - 1) / 2) * width, heights, width, **style)
        else:
            axes.plot(layers, heights, marker="o", markersize=2.5, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("Layer")
    axes.grid(axis="y")


def legend_below(figure: Figure, axes: Axes, *, columns: int = 6) -> None:
    """One legend for all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))
