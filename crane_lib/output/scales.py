"""Numbers and places of a figure's axis as words."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
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
