"""The look of every figure: seaborn's theme with the study's fonts and colours, and how a figure is saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.style
import seaborn as sns
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from crane_lib.files import atomic, write_text
from crane_lib.methods import METHODS
from crane_study.figures.alt_text import describe

LATIN = "DejaVu Sans"  # comes with Matplotlib; has the letters of Vietnamese
# A package that holds nothing but Noto Sans SC and Noto Serif SC (SIL Open Font License 1.1).
PACKAGE, FILE = "pylopdf_fonts_zh_cn", "NotoSansSC-Regular.otf"

# Okabe and Ito's palette for languages, Tol's "muted" for methods: both work without red or green cones.
LANGUAGE_COLOURS = {"en": "#0072B2", "zh": "#D55E00", "vi": "#009E73"}
_FURTHER_LANGUAGES = ("#CC79A7", "#E69F00", "#56B4E9", "#A59300", "#7F3C8D", "#5F5F5F", "#8C564B")
_SET_COLOURS = {  # sets that no method selects
    "none": "#282828",
    "everything": "#000000",
    "lape_list": "#C3963C",
    "random_like_contrast": "#777777",
    "random_like_kurtosis": "#BDBDBD",
    "random_like_lape": "#14142C",
    "random_like_released": "#ABB393",
    "random_global": "#4F4F4F",
    "random_full": "#B4A569",
}
MODEL_COLOURS = {"base": "#3B3B3B", "chat": "#B0679A"}
UNKNOWN_COLOUR = "#994F00"
NEUTRAL, MISSING_COLOUR = "#777777", "#EDEDED"


@cache
def families() -> tuple[str, ...]:
    """Font families in the order in which they are searched for a character."""
    file = str(resources.files(PACKAGE) / FILE)
    font_manager.fontManager.addfont(file)
    return LATIN, str(font_manager.FontProperties(fname=file).get_name())


@cache
def _characters(families: tuple[str, ...]) -> frozenset[int]:
    """Code points that the fonts can draw."""
    files = (font_manager.findfont(font_manager.FontProperties(family=family)) for family in families)
    return frozenset().union(*(font_manager.get_font(file).get_charmap() for file in files))


def drawable(text: str) -> bool:
    """Return whether the fonts have every character of a text; white space needs none."""
    known = _characters(families())
    return all(character.isspace() or ord(character) in known for character in text)


def language_colours(languages: Iterable[str]) -> dict[str, str]:
    """Colour of each language; those without one of their own take further colours in the order of their codes."""
    languages = list(languages)
    others = sorted({code for code in languages if code not in LANGUAGE_COLOURS})
    many = len(others) > len(_FURTHER_LANGUAGES)
    further = sns.color_palette("husl", len(others)).as_hex() if many else _FURTHER_LANGUAGES
    colours = {**dict(zip(others, further, strict=False)), **LANGUAGE_COLOURS}
    return {code: colours[code] for code in languages}


def method_colour(method: str) -> str:
    """Colour of a method."""
    return METHODS[method].colour if method in METHODS else _SET_COLOURS.get(method, UNKNOWN_COLOUR)


def ink_on(colour: Any) -> str:
    """Black or white, whichever is easier to read on a colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def look() -> dict[str, Any]:
    """Settings of Matplotlib for the study's figures: seaborn's "ticks" style at paper size, with our fonts."""
    style = sns.axes_style("ticks", {"font.family": list(families()), "grid.color": "#E3E3E3", "axes.axisbelow": True})
    details = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "axes.linewidth": 0.8,
        "grid.linewidth": 0.6,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
        "patch.linewidth": 0,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 3.5,
        "ytick.major.size": 3.5,
    }
    return {**sns.plotting_context("paper"), **style, **details, "svg.hashsalt": "crane"}


_mark: ContextVar[str] = ContextVar("mark", default="")


@contextmanager
def marked(text: str) -> Iterator[None]:
    """Write `text` above every figure saved in the block."""
    token = _mark.set(text)
    try:
        yield
    finally:
        _mark.reset(token)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as ``path.png`` and ``path.pdf`` and its alt text as ``path.txt``: equal figures, equal bytes."""
    pdf = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    if mark := _mark.get():
        figure.suptitle(mark, fontsize=8, color="#b00020")
    figure.draw_without_rendering()  # lays the figure out once, for both files
    figure.set_layout_engine("none")
    box = figure.get_tightbbox().padded(0.06)
    for kind, metadata in (("png", {"Software": None}), ("pdf", pdf)):
        with atomic(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=160, bbox_inches=box, metadata=metadata)
    write_text(path.with_name(f"{path.name}.txt"), describe(figure))
    figure.clear()


@contextmanager
def drawing(path: Path, *, width: float = 7.0, height: float = 3.0, placed_by_hand: bool = False) -> Iterator[Figure]:
    """A figure in the study's style, sized in inches, saved under `path` (without suffix) at the end of the block."""
    with matplotlib.style.context(["default", look()]):
        figure = Figure(figsize=(width, height), layout=None if placed_by_hand else "constrained")
        yield figure
        save_figure(figure, Path(path))
