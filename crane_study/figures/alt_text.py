"""What a figure shows, in words: a text for readers who do not see it, and for comparing figures by their content.

A label that starts with an underscore stands in the description and, by Matplotlib's own rule, not in a legend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator

DIGITS = 3  # significant ones of every number in a description


def number(value: float) -> str:
    """A number in words of a description: whole ones in full, others with three significant digits."""
    if not np.isfinite(value):
        return "none"
    if float(value).is_integer():
        return f"{int(value):,}"
    rounded = float(f"{value:.{DIGITS - 1}e}")
    if not 1e-4 <= abs(rounded) < 1e7:
        return f"{value:.{DIGITS - 1}e}"
    return f"{rounded:,.{max(DIGITS - 1 - int(np.floor(np.log10(abs(rounded)))), 0)}f}"


@dataclass(frozen=True)
class Scale:
    """The names that stand at places of one axis; without names its values are numbers."""

    names: dict[float, str] = field(default_factory=dict)

    @classmethod
    def of(cls, axes: Axes, which: str) -> Scale:
        """Read the tick labels of an axis, before each the note beside the group of ticks that it belongs to."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        locator = axis.get_major_locator()
        if not isinstance(locator, FixedLocator):
            return cls()
        places = [float(place) for place in locator()]
        labels = axis.get_major_formatter().format_ticks(places)
        names = {place: label.replace("\n", " ") for place, label in zip(places, labels, strict=True) if label}
        if all(_is_number(label, place) for place, label in names.items()):
            return cls()
        notes = _notes_beside(axes) if which == "y" else {}
        for place in names if notes else ():
            nearest = min(notes, key=lambda middle: abs(middle - place))
            names[place] = f"{notes[nearest]}, {names[place]}"
        return cls(names)

    def text(self, value: float) -> str:
        """The name that stands at a place, or the number."""
        if self.names:
            nearest = min(self.names, key=lambda place: abs(place - value))
            if abs(nearest - value) <= 0.5:
                return self.names[nearest]
        return number(value)


def _is_number(label: str, place: float) -> bool:
    try:
        return bool(np.isclose(float(label.replace("−", "-").replace(",", "")), place))
    except ValueError:
        return False


def _notes_beside(axes: Axes) -> dict[float, str]:
    """Notes left of an axis, each at the middle of the ticks that it is for."""
    return {
        float(text.xy[1]): text.get_text().replace("\n", " ")
        for text in axes.texts
        if isinstance(text, Annotation) and text.xycoords == ("axes fraction", "data") and text.xy[0] == 0
    }


_MOST_CELLS = 12  # of a row of an image that are told one by one


@dataclass(frozen=True)
class Reading:
    """One thing in a panel: bars, points, a curve, intervals, a band; or a line across it or image row, in words."""

    kind: str
    label: str
    points: list[tuple[float, float]] = field(default_factory=list)  # across, up
    text: str = ""
    key: tuple[str, str] = ("", "")  # colour and hatch, by which a legend names it

    @staticmethod
    def look(colour: Any, hatch: str | None = None) -> tuple[str, str]:
        """Colour, whatever its transparency, and hatch."""
        return to_hex(colour), hatch or ""


def readings(axes: Axes) -> Iterator[Reading]:
    """All that a panel shows, bars first."""
    apart: set[int] = set()  # parts of error bars, told with them
    for container in axes.containers:
        if isinstance(container, BarContainer):
            yield from _bars(container)
        elif isinstance(container, ErrorbarContainer):
            _line, caps, stems = container.lines
            apart |= {id(part) for part in (*caps, *stems)}
            for stem in stems:
                yield from _segments(stem, label=str(container.get_label()))
    for line in axes.lines:
        if id(line) not in apart:
            yield from _line_reading(axes, line)
    for collection in axes.collections:
        if id(collection) in apart:
            continue
        if isinstance(collection, LineCollection):
            yield from _segments(collection, label=str(collection.get_label()))
        elif isinstance(collection, PolyCollection):
            yield from _band(collection)
        elif isinstance(collection, PathCollection):
            points = [(float(x), float(y)) for x, y in np.ma.getdata(collection.get_offsets())]
            key = Reading.look(collection.get_facecolor()[0]) if len(collection.get_facecolor()) else ("", "")
            yield Reading("points", str(collection.get_label()), points, key=key)
    for image in axes.images:
        yield from _rows(axes, image)


def _bars(container: BarContainer) -> Iterator[Reading]:
    """Bars with their ends; those without extent only stand for a legend's entry."""
    horizontal = container.orientation == "horizontal"
    for patch in container.patches:
        middle_x, middle_y = patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2
        if horizontal:
            thickness, point = patch.get_height(), (patch.get_x() + patch.get_width(), middle_y)
        else:
            thickness, point = patch.get_width(), (middle_x, patch.get_y() + patch.get_height())
        if thickness and np.isfinite(point).all():
            key = Reading.look(patch.get_facecolor(), patch.get_hatch())
            kind = "horizontal bars" if horizontal else "bars"
            yield Reading(kind, str(container.get_label()), [(float(point[0]), float(point[1]))], key=key)


def _line_reading(axes: Axes, line: Line2D) -> Iterator[Reading]:
    x, y = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
    label, key = str(line.get_label()), Reading.look(line.get_color())
    for transform, values, word in (
        (axes.get_yaxis_transform(which="grid"), y, "horizontal"),
        (axes.get_xaxis_transform(which="grid"), x, "vertical"),
    ):
        if line.get_transform() == transform:
            if not label.startswith("_"):
                yield Reading("line", label, text=f"{word} line at {number(float(values[0]))}")
            return
    if not len(x) or not (np.isfinite(x) & np.isfinite(y)).any():
        return
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    bare = str(line.get_linestyle()) in ("None", "none", "", " ")
    if bare or len(points) == 1:
        yield Reading("points", label, points, key=key)
    elif len(points) == 2 and str(line.get_marker()) in ("None", "none", "", " "):
        yield _interval(points, label=label, key=key)
    else:
        yield Reading("curve", label, points, key=key)


def _interval(points: list[tuple[float, float]], *, label: str, key: tuple[str, str]) -> Reading:
    """A straight piece between two points: along the axis that it does not lie across."""
    flat = points[0][1] == points[1][1]
    return Reading("horizontal interval" if flat else "interval", label, points, key=key)


def _segments(collection: LineCollection, *, label: str) -> Iterator[Reading]:
    key = Reading.look(collection.get_colors()[0]) if len(collection.get_colors()) else ("", "")
    for segment in collection.get_segments():
        if len(segment) == 2 and np.isfinite(segment).all():
            yield _interval([(float(x), float(y)) for x, y in segment], label=label, key=key)


def _band(collection: PolyCollection) -> Iterator[Reading]:
    """The lower and the upper edge of a band at every place."""
    key = Reading.look(collection.get_facecolor()[0])
    edges: dict[float, list[float]] = {}
    for path in collection.get_paths():
        for x, y in np.asarray(path.vertices, dtype=float):
            edges.setdefault(float(x), []).append(float(y))
    points = [(x, edge) for x, values in sorted(edges.items()) for edge in (min(values), max(values))]
    yield Reading("band", str(collection.get_label()), points, key=key)


def _rows(axes: Axes, image: AxesImage) -> Iterator[Reading]:
    """A line for each row of a heat map: what its cells say, else their values."""
    values: np.ndarray = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
    across, up = Scale.of(axes, "x"), Scale.of(axes, "y")
    written = _written(axes)
    for row, cells in enumerate(values):
        if len(cells) > _MOST_CELLS and np.isfinite(cells).any():
            low, high = int(np.nanargmin(cells)), int(np.nanargmax(cells))
            text = (
                f"{len(cells)} values, first {number(cells[0])}, last {number(cells[-1])}, lowest {number(cells[low])} "
                f"at {across.text(low)}, highest {number(cells[high])} at {across.text(high)}"
            )
        else:
            told = [written.get((column, row)) or number(value) for column, value in enumerate(cells)]
            text = "; ".join(f"{across.text(column)} = {cell}" for column, cell in enumerate(told))
        yield Reading("row", up.text(row), text=text)


def _written(axes: Axes) -> dict[tuple[int, int], str]:
    """What stands in the cells of a heat map, by column and row; what is not in its first line in brackets."""
    found: dict[tuple[int, int], list[str]] = {}
    for text in axes.texts:
        if text.get_transform() == axes.transData and text.get_text():
            x, y = text.get_position()
            found.setdefault((round(x), round(y)), []).extend(text.get_text().splitlines())
    cells = {}
    for place, (first, *rest) in found.items():
        below = " ".join(rest)
        cells[place] = f"{first} {below}" if below.startswith("(") else f"{first} ({below})" if below else first
    return cells


_MOST_ITEMS = 40  # named values; of more only the ends and the extremes are told
_MOST_POINTS = 12  # the same for points of a curve
_COLOUR_BAR = "<colorbar>"  # Matplotlib's label of the axes of a colour bar
KEY = "<key>"  # label of axes that only explain the names in another panel


def describe(figure: Figure) -> str:
    """Text on every panel of a drawn figure: title, axes, and each series with its values.

    Numbers have three significant digits; those written into a figure stand as written. Long series are told by their
    number of points, their ends and their extremes.
    """
    heads = [figure.get_suptitle(), figure.get_supxlabel(), figure.get_supylabel()]
    lines = [_one_line(text) for text in heads if text]
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_label() not in (_COLOUR_BAR, KEY)]
    bars = [axes for axes in figure.axes if axes.get_label() == _COLOUR_BAR]
    named = _legend_names(figure)
    for place, axes in enumerate(panels, start=1):
        lines += [f"Panel {place} of {len(panels)}: {_heading(axes)}".rstrip(": "), *_content(axes, named)]
    labels = dict.fromkeys(_one_line(axes.get_ylabel() or axes.get_xlabel()) for axes in bars)
    lines += [f"Colour: {label}" for label in labels if label]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return ", ".join(part.strip() for part in text.splitlines() if part.strip())


def _legend_names(figure: Figure) -> dict[tuple[str, str], str]:
    """Colour and hatch of every entry of every legend, with its text."""
    parts = [figure, *figure.subfigs]
    legends = [legend for part in parts for legend in part.legends]
    legends += [legend for axes in figure.axes if (legend := axes.get_legend()) is not None]
    named: dict[tuple[str, str], str] = {}
    for legend in legends:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            if isinstance(handle, Patch):
                named.setdefault(Reading.look(handle.get_facecolor(), handle.get_hatch()), text.get_text())
            elif handle is not None and hasattr(handle, "get_color"):
                named.setdefault(Reading.look(handle.get_color()), text.get_text())
    return named


def _heading(axes: Axes) -> str:
    parts = [_one_line(axes.get_title())]
    for side, axis in (("across", axes.xaxis), ("up", axes.yaxis)):
        if label := _one_line(axis.get_label_text()):
            parts.append(f"{side}: {label}" + ("" if axis.get_scale() == "linear" else " (logarithmic)"))
    return "; ".join(part for part in parts if part)


def _content(axes: Axes, named: dict[tuple[str, str], str]) -> list[str]:
    """A line for each series, image row, threshold and text of a panel."""
    across, up = Scale.of(axes, "x"), Scale.of(axes, "y")
    lines = []
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for reading in readings(axes):
        name = _name(reading, named)
        if reading.kind in ("line", "row"):
            lines.append(f"  {'row ' if reading.kind == 'row' else ''}{name}: {reading.text}")
            continue
        kind, points = reading.kind, reading.points
        if kind == "horizontal interval" and across.names and not up.names:  # a dash over a bar: a value there
            kind, points = "points", [(sum(x for x, _ in points) / len(points), points[0][1])]
        elif kind == "bars" and not across.names:  # side by side at a whole number
            points = [(round(x), y) for x, y in points]
        series.setdefault((kind, name), []).extend(points)
    for (kind, name), points in series.items():
        horizontal = kind.startswith("horizontal ")
        kind = kind.removeprefix("horizontal ")
        if horizontal or (kind == "points" and up.names and not across.names):
            text = _values([(y, x) for x, y in points], places=up, values=across, kind=kind)
        else:
            text = _values(points, places=across, values=up, kind=kind)
        lines.append(f"  {name} ({kind}): {text}" if name else f"  {kind}: {text}")
    return lines + _texts(axes)


def _name(reading: Reading, named: dict[tuple[str, str], str]) -> str:
    """The label of a series, else that of the legend's entry of the same colour."""
    return _own_label(reading.label) or _one_line(named.get(reading.key, ""))


def _own_label(label: str) -> str:
    """A label that was given, without the underscore that keeps it from a legend."""
    return "" if re.fullmatch(r"_(child|container)\d+|_nolegend_", label) else _one_line(label.removeprefix("_"))


def _values(points: Sequence[tuple[float, float]], *, places: Scale, values: Scale, kind: str) -> str:
    """Values at their places: one by one, or their number, ends and extremes where there are many."""
    found: dict[str, list[float]] = {}
    for place, value in points:
        found.setdefault(places.text(place), []).append(value)
    if len(found) > (_MOST_ITEMS if places.names else _MOST_POINTS):
        return _summary(points, places=places, values=values)
    if kind in ("interval", "band"):
        items = [f"{place}: {values.text(min(part))} to {values.text(max(part))}" for place, part in found.items()]
    else:
        items = [f"{place}: {_at_one_place(part, values)}" for place, part in found.items()]
    return "; ".join(items)


def _at_one_place(part: Sequence[float], values: Scale) -> str:
    if len(part) <= 3 or values.names:
        return ", ".join(values.text(value) for value in part)
    mean = number(float(np.mean(part)))
    return f"{len(part)} from {values.text(min(part))} to {values.text(max(part))}, mean {mean}"


def _summary(points: Sequence[tuple[float, float]], *, places: Scale, values: Scale) -> str:
    """Number of points; values at the ends, at the quarters between them, and the extremes, each with its place."""
    ordered = sorted(point for point in points if np.isfinite(point[1]))
    if not ordered:
        return f"{len(points):,} points, none of them known"
    last = len(ordered) - 1
    told: dict[tuple[float, float], list[str]] = {}
    for word, point in {
        "first": ordered[0],
        **{f"at {share} % of the points": ordered[round(last * share / 100)] for share in (25, 50, 75)},
        "last": ordered[-1],
        "lowest": min(ordered, key=lambda point: point[1]),
        "highest": max(ordered, key=lambda point: point[1]),
    }.items():
        told.setdefault(point, []).append(word)
    items = [f"{values.text(y)} at {places.text(x)} ({', '.join(words)})" for (x, y), words in told.items()]
    return f"{len(points):,} points: {'; '.join(items)}"


def _texts(axes: Axes) -> list[str]:
    """Labelled patches and texts of a panel without axes, in the order in which they were set."""
    if axes.axison:
        return []
    lines: list[list[str]] = [[]]
    last: Patch | None = None  # the text in it says the same
    for child in axes.get_children():
        if isinstance(child, Patch) and child is not axes.patch and _own_label(str(child.get_label())):
            last = child
            lines[-1].append(_own_label(str(child.get_label())))
        elif isinstance(child, Text) and child in axes.texts:
            x, y = axes.transData.transform(child.get_position())
            if last is None or not last.contains_point((float(x), float(y))):
                lines.append([_one_line(child.get_text())])
    return ["  " + "; ".join(line).replace("; ", ": ", 1) for line in lines if line]
