"""Panels that several figures share: grids, heat maps, bars with intervals, values by layer; with their alt text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from crane_study.figures.alt_text import tell, tell_line
from crane_study.figures.style import LATIN, MISSING_COLOUR, NEUTRAL, drawing, ink_on, language_colours, method_colour
from crane_study.labels import budget_label, language_name, method_label, ordered_languages, ordered_sets

SHARE_COLOURS, SIGNED_COLOURS = "Purples", "RdBu_r"
SITE_NAMES = {"neuron": "neurons", "gate": "gate rows", "up": "up rows", "down": "down rows"}
COLUMNS = 3  # of panels in one row
WIDTH = 0.8  # of a group of bars or points at one tick
MEAN = "Mean"
_MOST_BARS = 8  # with more layers, lines
_MOST_NUMBERED = 12  # layers up to which the cells of a map carry numbers
_INTERVAL: dict[str, Any] = {"fmt": "none", "ecolor": "black", "elinewidth": 0.9, "capsize": 1.5}


def grid(figure: Figure, count: int, *, columns: int = COLUMNS, **options: Any) -> list[Axes]:
    """Panels in rows of `columns`, without the empty places of the last row."""
    columns = min(columns, count)
    axes = figure.subplots(-(-count // columns), columns, squeeze=False, **options).ravel()
    for spare in axes[count:]:
        spare.set_visible(False)
    return list(axes[:count])


def grid_height(count: int, *, panel: float, rest: float = 0.4) -> float:
    """Height in inches of a grid whose panels are `panel` high."""
    return panel * -(-count // min(COLUMNS, max(count, 1))) + rest


def label_outside(panels: Sequence[Axes], *, across: str = "", up: str = "") -> None:
    """Label the horizontal axes of the lowest panels and the vertical axes of the first column."""
    for number, panel in enumerate(panels):
        panel.set_xlabel(across if number + COLUMNS >= len(panels) else "")
        panel.set_ylabel(up if number % COLUMNS == 0 else "")


def name_panel(axes: Axes, method: str, budget: str, *, note: str = "") -> None:
    """Title a panel with its method and budget, above a line in the method's colour."""
    axes.set_title(f"{method_label(method)}\n{budget_label(budget)} {note}".rstrip(), fontsize=8, pad=9)
    axes.spines["top"].set(visible=True, color=method_colour(method), linewidth=3, position=("outward", 3))


def paint_languages(labels: Iterable[Text], languages: Sequence[str]) -> None:
    """Set the labels of languages in bold and in their colours."""
    colours = language_colours(languages)
    for label, code in zip(labels, languages, strict=True):
        label.set(color=colours[code], family=LATIN, fontweight="bold")


def dodged(count: int) -> np.ndarray:
    """Offsets from a tick of `count` bars side by side, as seaborn places them."""
    return (np.arange(count) - (count - 1) / 2) * WIDTH / max(count, 1)


def interval_bars(axes: Axes, places: Any, low: Any, high: Any, *, across: bool = False, **options: Any) -> None:
    """Intervals with given limits at given places; `across` the panel, else upwards."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    middle, half, options = (low + high) / 2, np.abs(high - low) / 2, {**_INTERVAL, **options}
    if across:
        axes.errorbar(middle, places, xerr=half, **options)
    else:
        axes.errorbar(places, middle, yerr=half, **options)


def reference_line(axes: Axes, label: str, at: float, *, vertical: bool = False) -> None:
    """Dotted black line at a value that every method is compared with."""
    draw = axes.axvline if vertical else axes.axhline
    draw(at, color="black", linewidth=1.1, linestyle=":", label=label)
    tell_line(axes, label, at, vertical=vertical)


def legend_below(figure: Figure, axes: Axes | None = None, *, handles: Sequence[Any] = (), columns: int = 6) -> None:
    """One legend for all panels, below them: the given handles or those of one panel."""
    found = list(handles) or (axes.get_legend_handles_labels()[0] if axes is not None else [])
    if found:
        figure.legend(handles=found, loc="outside lower center", ncols=min(columns, len(found)))


def language_handles(languages: Sequence[str]) -> list[Patch]:
    """Entries of a legend that names the colours of languages."""
    return [Patch(color=colour, label=language_name(code)) for code, colour in language_colours(languages).items()]


def heat_map(
    axes: Axes, values: pd.DataFrame, *, texts: pd.DataFrame | None = None, size: float = 7.5, **options: Any
) -> ScalarMappable:
    """Heat map with a text in every cell, told instead of its value; cells of NaN are grey. The caller sets the ticks.

    Lines after a text's first are smaller; a `size` of 0 points leaves the texts out. `options` are those of seaborn.
    """
    options = {"cbar": False, "xticklabels": False, "yticklabels": False, "linewidths": 0.4, **options}
    sns.heatmap(values, ax=axes, mask=values.isna(), **options)
    mappable: ScalarMappable = axes.collections[0]
    axes.set(facecolor=MISSING_COLOUR, xlabel="", ylabel="")
    for row, (label, numbers) in enumerate(values.iterrows()):
        cells = [""] * len(numbers) if texts is None else texts.iloc[row]
        for column, (value, text) in enumerate(zip(numbers, cells, strict=True)):
            first, _, rest = text.partition("\n") if size else ("", "", "")
            ink = ink_on(mappable.to_rgba(value)) if np.isfinite(value) else "black"
            centred: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
            axes.text(column + 0.5, row + (0.33 if rest else 0.5), first, fontsize=size, **centred)
            axes.text(column + 0.5, row + 0.67, rest, fontsize=0.78 * size, linespacing=1, **centred)
        told = [_in_brackets(text) if text else value for text, value in zip(cells, numbers, strict=True)]
        tell(axes, f"row {label if isinstance(label, str) else ', '.join(label)}", map(str, values.columns), told)
    return mappable


def _in_brackets(text: str) -> str:
    """The first line of a cell's text, the others in brackets after it."""
    first, *rest = text.splitlines()
    return f"{first} ({' '.join(rest).strip('()')})" if rest else first


def site_map(
    axes: Axes, shares: Mapping[tuple[str, str], np.ndarray], *, numbered_layers: bool = True
) -> ScalarMappable:
    """Heat map of the percentage in every layer, an array (L,) for each site and language."""
    named = [(SITE_NAMES.get(site, site), language) for site, language in shares]
    values = pd.DataFrame(list(shares.values()), index=pd.MultiIndex.from_tuples(named))
    texts = values.map(lambda value: f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}")
    few = values.shape[1] <= _MOST_NUMBERED
    scale = {"vmin": 0, "vmax": max(float(values.to_numpy().max()), 1e-9), "cmap": SHARE_COLOURS}
    image = heat_map(axes, values, texts=texts if few else None, size=6, linewidths=0.4 if few else 0, **scale)
    if numbered_layers:
        step = -(-values.shape[1] // _MOST_NUMBERED)
        layers = np.arange(0, values.shape[1], step)
        axes.set_xticks(layers + 0.5, layers.astype(str))
    languages = [language for _site, language in named]
    axes.set_yticks(np.arange(len(named)) + 0.5, languages)
    paint_languages(axes.get_yticklabels(), languages)
    axes.tick_params(length=0, pad=2)
    for number, site in enumerate(dict.fromkeys(site for site, _language in named)):
        rows = [row for row, (name, _language) in enumerate(named) if name == site]
        if number:
            axes.axhline(rows[0], color="white", linewidth=3)
        axes.annotate(
            site.replace(" ", "\n"), (0, (rows[0] + rows[-1] + 1) / 2), xytext=(-12 - 5 * max(map(len, languages)), 0),
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="center", va="center", rotation=90,
            fontsize=7,
        )  # fmt: skip
    return image


def language_matrices(
    cells: pd.DataFrame, path: Path, bar: str, *, across: str = "Evaluated", up: str = "Masked", signed: bool = True
) -> None:
    """Heat maps of languages by languages, one per method and budget, on one colour scale: around zero if `signed`.

    The figure grows with the number of languages; with more than six the cells lose their second lines, with more
    than twelve all texts. `cells` has method, budget, row, column, value and text; absent cells are a dash.
    """
    sets = ordered_sets(zip(cells["method"], cells["budget"], strict=True))
    languages = ordered_languages([*cells["row"], *cells["column"]])
    count, longest = len(languages), 0.09 * max(map(len, languages))
    side, size = (0.5, 7.5) if count <= 6 else (0.32, 6.0) if count <= 12 else (0.14, 0.0)
    ticks: dict[str, Any] = {"ticks": np.arange(count) + 0.5, "labels": languages, "fontsize": min(8, 60 * side)}
    upright = longest <= side
    panel, columns = max(1.4, side * count), min(COLUMNS, len(sets))
    width = columns * (panel + 0.3 + longest) + 0.9
    height = grid_height(len(sets), panel=panel + (0.65 if upright else 0.5 + longest))
    lowest, highest = float(min(0.0, cells["value"].min())), float(max(1e-9, cells["value"].max()))
    largest = max(-lowest, highest)
    scale = {"vmin": -largest if signed else 0.0, "vmax": largest, "cmap": SIGNED_COLOURS if signed else SHARE_COLOURS}
    with drawing(path, width=width, height=height) as figure:
        panels = grid(figure, len(sets))
        for axes, key in zip(panels, sets, strict=True):
            part = cells[(cells["method"] == key[0]) & (cells["budget"] == key[1])]
            values, texts = square(part, languages, missing="–" if signed else "")
            texts = texts if count <= 6 else texts.map(lambda text: text.partition("\n")[0])
            image = heat_map(axes, values, texts=texts, size=size, square=True, **scale)
            name_panel(axes, *key)
            axes.set_xticks(**ticks, rotation=0 if upright else 90)
            axes.set_yticks(**ticks)
            axes.tick_params(length=0, pad=2)
            paint_languages(axes.get_xticklabels(), languages)
            paint_languages(axes.get_yticklabels(), languages)
        label_outside(panels, across=across, up=up)
        colours = figure.colorbar(image, ax=panels, shrink=0.6 if len(sets) > columns else 0.9, label=bar)
        colours.outline.set_visible(False)
        colours.ax.set_ylim(lowest if lowest < -0.02 * largest else 0.0, largest)


def square(cells: pd.DataFrame, names: Sequence[str], *, missing: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values and texts of cells (row, column, value, text) as tables; NaN and `missing` where there is no value."""
    wide = cells.pivot(index="row", columns="column", values=["value", "text"])  # noqa: PD010
    values, texts = (wide[name].reindex(index=names, columns=names) for name in ("value", "text"))
    values = values.astype(float)
    return values, texts.where(values.notna(), missing)


def language_bars(
    frame: pd.DataFrame,
    path: Path,
    panels: Mapping[str, tuple[str, str]],
    *,
    lines: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Bars per method and budget: one per language and one for the mean, with intervals or a dot per random draw.

    `frame` has method, budget, panel, language (or `MEAN`), value, low and high, and precision and recall, whose means
    are written right of the bars; several rows of one bar are draws.
    `panels` gives the title and the label of the axis for each value of the column panel, `lines` the value of the mask
    of all neurons.
    """
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(set(frame["language"]) - {MEAN})
    names, bars = [method_label(*one) for one in sets], [*map(language_name, languages), MEAN]
    colours = {**{language_name(code): colour for code, colour in language_colours(languages).items()}, MEAN: NEUTRAL}
    frame = frame.assign(set=list(map(method_label, frame["method"], frame["budget"])))
    frame["bar"] = frame["language"].map({**{code: language_name(code) for code in languages}, MEAN: MEAN})
    common: dict[str, Any] = {"x": "value", "y": "set", "hue": "bar", "order": names, "hue_order": bars}
    with drawing(path, width=7.0, height=max(0.5, 0.125 * len(bars)) * len(sets) + 0.9) as figure:
        axes = grid(figure, len(panels), columns=len(panels), sharey=True, sharex=True)
        for panel, (key, (title, label)) in zip(axes, panels.items(), strict=True):
            part = frame[frame["panel"] == key]
            filled = {"palette": colours, "saturation": 1, "width": WIDTH, "errorbar": None}
            sns.barplot(part, ax=panel, **common, **filled, legend=False)
            for patch in panel.containers[-1]:  # the mean, in the colour of its method
                patch.set_facecolor(method_colour(sets[round(patch.get_y() + patch.get_height() / 2)][0]))
            drawn = part[part.duplicated(["set", "bar"], keep=False)]
            if len(drawn):
                white = {"palette": dict.fromkeys(bars, "white"), "edgecolor": "black", "linewidth": 0.6, "size": 3}
                sns.stripplot(drawn, ax=panel, **common, **white, dodge=True, jitter=False, legend=False)
            known = part.dropna(subset=["low", "high"])
            places = known["set"].map(names.index) + known["bar"].map(dict(zip(bars, dodged(len(bars)), strict=True)))
            interval_bars(panel, places, known["low"], known["high"], across=True, capsize=0)
            for name in bars:  # a value with its interval, or the mean of the draws with their range
                found = part[part["bar"] == name].groupby(["method", "budget"], sort=False)
                found = found.agg({"value": ["mean", "size", "min", "max"], "low": "min", "high": "max"})
                found = found.set_axis(["value", "draws", "lowest", "highest", "low", "high"], axis=1)
                found = found.loc[ordered_sets(found.index)]
                low = found["low"].where(found["draws"] == 1, found["lowest"])
                high = found["high"].where(found["draws"] == 1, found["highest"])
                tell(panel, name, [method_label(*key) for key in found.index], found["value"], low=low, high=high)
            parts = part.groupby(["method", "budget"])[["precision", "recall"]].mean().reindex(sets)
            beside: dict[str, Any] = {"transform": panel.get_yaxis_transform(), "va": "center", "color": "#444444"}
            for place, values in enumerate(parts.to_numpy()):
                if not np.isnan(values).any():
                    panel.text(1.02, place, "P {:.2f}  R {:.2f}".format(*values), fontsize=6.5, **beside)
            tell(panel, "Precision", names, parts["precision"])
            tell(panel, "Recall", names, parts["recall"])
            panel.set(title=title, xlabel=label, ylabel="", ylim=(len(sets) - 0.5, -0.5))
            panel.tick_params(axis="y", length=0)
            panel.grid(axis="x")
            if key in lines:
                reference_line(panel, method_label("everything"), lines[key], vertical=True)
        axes[0].set_xlim(left=0)
        mean = Patch(color=NEUTRAL, label=f"{MEAN} (in the method's colour)")
        handles = [*language_handles(languages), mean, *(line for line in axes[0].lines if line.get_linestyle() == ":")]
        legend_below(figure, handles=handles)


def by_layer(axes: Axes, values: Mapping[str, np.ndarray]) -> None:
    """One value per layer and language, arrays (L,): bars side by side, lines where there are many layers."""
    frame = pd.DataFrame({language_name(code): np.asarray(array, dtype=float) for code, array in values.items()})
    colours = dict(zip(frame.columns, language_colours(values).values(), strict=True))
    long = frame.rename_axis("layer").reset_index().melt("layer", var_name="language")
    common: dict[str, Any] = {"data": long, "x": "layer", "y": "value", "hue": "language", "palette": colours}
    if len(frame) <= _MOST_BARS:
        sns.barplot(**common, ax=axes, saturation=1, errorbar=None, width=WIDTH, native_scale=True)
    else:
        sns.lineplot(**common, ax=axes, estimator=None, marker="o", markersize=2.5, markeredgewidth=0)
    if legend := axes.get_legend():
        legend.remove()
    for name in frame:
        tell(axes, str(name), frame.index, frame[name])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set(xlabel="Layer", ylabel="")
    axes.grid(axis="y")
