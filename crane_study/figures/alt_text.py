"""Alt text: what a figure shows in words, for readers who do not see it and for comparing figures by content.

The functions that draw also tell: `tell` adds one line on a series, a row or a threshold to its panel, and `describe`
puts the lines of all panels below their titles and axis labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

DIGITS = 3  # significant ones of every number
_MOST_NAMED, _MOST_NUMBERED = 40, 12  # values given one by one; longer series are summed up
_COLOUR_BAR = "<colorbar>"  # Matplotlib's label of the axes of a colour bar
_told: WeakKeyDictionary[Axes, list[str]] = WeakKeyDictionary()


def number(value: float) -> str:
    """A number in words: integers in full, others with three significant digits."""
    if not np.isfinite(value):
        return "none"
    if float(value).is_integer():
        return f"{int(value):,}"
    rounded = float(f"{value:.{DIGITS - 1}e}")
    if not 1e-4 <= abs(rounded) < 1e7:
        return f"{value:.{DIGITS - 1}e}"
    return f"{rounded:,.{max(DIGITS - 1 - int(np.floor(np.log10(abs(rounded)))), 0)}f}"


def tell(
    axes: Axes, name: str, places: Iterable[Any], values: Iterable[Any], *, low: Any = np.nan, high: Any = np.nan
) -> None:
    """Add one line to the alt text of a panel: the values at their places, with the limits of intervals if any."""
    table = pd.DataFrame({"place": list(places), "value": list(values)}, dtype=object)
    table = table.assign(low=np.asarray(low, dtype=float), high=np.asarray(high, dtype=float))
    named = any(isinstance(place, str) for place in table["place"])
    if len(table) > (_MOST_NAMED if named else _MOST_NUMBERED):
        tell_text(axes, f"{name}: {_summary(table)}")
    else:
        items = [f"{_text(row.place)}: {_text(row.value)}{_limits(row.low, row.high)}" for row in table.itertuples()]
        tell_text(axes, f"{name}: {'; '.join(items)}")


def tell_line(axes: Axes, name: str, at: float, *, vertical: bool = False) -> None:
    """Add a line across the panel, such as a threshold, to its alt text."""
    tell_text(axes, f"{name}: {'vertical' if vertical else 'horizontal'} line at {number(at)}")


def tell_text(axes: Axes, line: str) -> None:
    """Add a line as it stands to the alt text of a panel."""
    _told.setdefault(axes, []).append("  " + _one_line(line))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else number(float(value))


def _limits(low: float, high: float) -> str:
    return f" ({number(low)} to {number(high)})" if np.isfinite([low, high]).all() else ""


def _summary(table: pd.DataFrame) -> str:
    """Number of values; those at the ends and at the quarters between them, and the extremes."""
    known = table[np.isfinite(pd.to_numeric(table["value"], errors="coerce"))].reset_index(drop=True)
    if known.empty:
        return f"{len(table):,} values, none of them known"
    numbers, last = known["value"].astype(float), len(known) - 1
    words: dict[int, list[str]] = {}
    for word, row in {
        "first": 0,
        **{f"at {share} % of the points": round(last * share / 100) for share in (25, 50, 75)},
        "last": last,
        "lowest": int(numbers.idxmin()),
        "highest": int(numbers.idxmax()),
    }.items():
        words.setdefault(row, []).append(word)
    items = [f"{number(numbers[row])} at {_text(known['place'][row])} ({', '.join(words[row])})" for row in words]
    return f"{len(table):,} points: {'; '.join(items)}"


def describe(figure: Figure) -> str:
    """Alt text of a figure: the title and axes of every panel, and the lines told of it."""
    heads = [figure.get_suptitle(), figure.get_supxlabel(), figure.get_supylabel()]
    lines = [_one_line(text) for text in heads if text]
    panels = [axes for axes in figure.axes if axes in _told]
    for place, axes in enumerate(panels, start=1):
        lines += [f"Panel {place} of {len(panels)}: {_heading(axes)}".rstrip(": "), *_told[axes]]
    bars = [axes for axes in figure.axes if axes.get_label() == _COLOUR_BAR]
    labels = dict.fromkeys(_one_line(axes.get_ylabel() or axes.get_xlabel()) for axes in bars)
    return "\n".join([*lines, *(f"Colour: {label}" for label in labels if label)]) + "\n"


def _heading(axes: Axes) -> str:
    parts = [_one_line(axes.get_title())]
    axis: Axis
    for side, axis in (("across", axes.xaxis), ("up", axes.yaxis)):
        if label := _one_line(axis.get_label_text()):
            parts.append(f"{side}: {label}" + ("" if axis.get_scale() == "linear" else " (logarithmic)"))
    return "; ".join(part for part in parts if part)


def _one_line(text: str) -> str:
    return ", ".join(part.strip() for part in text.splitlines() if part.strip())
