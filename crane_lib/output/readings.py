"""The values that a panel of a figure was drawn from, read back from what Matplotlib drew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from crane_lib.output.scales import Scale, number

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
