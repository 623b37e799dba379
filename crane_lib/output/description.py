"""What a figure shows, in words: a text for readers who do not see it, and for comparing figures by their content.

A label that starts with an underscore stands in the description and, by Matplotlib's own rule, not in a legend.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from crane_lib.output.readings import Reading, readings
from crane_lib.output.scales import Scale, number

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


def first_sentence(caption: str) -> str:
    """The first sentence of a caption, without its full stop."""
    return re.split(r"\. (?=[A-Z])", caption, maxsplit=1)[0].strip().rstrip(".")
