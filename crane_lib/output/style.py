"""One look for every figure and one name for every language, method and budget, in figures and tables alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import babel
import matplotlib
import matplotlib.style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from crane_lib.files import atomic, write_text
from crane_lib.output.description import describe
from crane_lib.output.fonts import families

# Okabe and Ito's palette for languages, Tol's "muted" for methods: both are told apart without red or green cones.
LANGUAGE_COLOURS = {"en": "#0072B2", "zh": "#D55E00", "vi": "#009E73"}
_FURTHER_LANGUAGES = ("#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#7F3C8D", "#5F5F5F", "#8C564B")
METHOD_COLOURS = {
    "none": "#222222",
    "contrast": "#332288",
    "contrast_mean": "#8778D2",
    "contrast_abs": "#691E5A",
    "kurtosis": "#AA4499",
    "lape": "#DDCC77",
    "lape_list": "#C3963C",
    "activation_contrast": "#88CCEE",
    "gradient_contrast": "#117733",
    "random_like_contrast": "#777777",
    "random_like_kurtosis": "#BDBDBD",
    "random_global": "#4F4F4F",
    "random_full": "#B4A569",
}
METHOD_LABELS = {
    "none": "Unmasked",
    "contrast": "Relevance contrast",
    "contrast_mean": "Relevance contrast (mean)",
    "contrast_abs": "|Relevance| contrast",
    "kurtosis": "Relevance kurtosis",
    "lape": "LAPE",
    "lape_list": "LAPE (published list)",
    "activation_contrast": "Activation contrast",
    "gradient_contrast": "Gradient contrast",
    "random_like_contrast": "Random (like contrast)",
    "random_like_kurtosis": "Random (like kurtosis)",
    "random_global": "Random (global)",
    "random_full": "Random (any number)",
}
MODEL_COLOURS = {"base": "#3B3B3B", "chat": "#B0679A"}
MODEL_LABELS = {"base": "Base model", "chat": "Chat model"}
METRIC_LABELS = {
    "nll": "NLL (nats per token)",
    "perplexity": "Perplexity",
    "token_probability": "Token probability",
    "accuracy": "Accuracy",
    "judge_score": "Judge score (1 to 10)",
}
UNKNOWN_COLOUR = "#994F00"

_RC: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "image.interpolation": "nearest",
    "svg.hashsalt": "crane",
}


def language_colours(languages: Iterable[str]) -> dict[str, str]:
    """Colour of each language; those without one of their own take further colours by the order of their codes."""
    languages = list(languages)
    others = sorted({code for code in languages if code not in LANGUAGE_COLOURS})
    further = {code: _FURTHER_LANGUAGES[i % len(_FURTHER_LANGUAGES)] for i, code in enumerate(others)}
    return {code: LANGUAGE_COLOURS.get(code) or further[code] for code in languages}


def method_colour(method: str) -> str:
    """Colour of a method."""
    return METHOD_COLOURS.get(method, UNKNOWN_COLOUR)


def language_name(code: str) -> str:
    """English name of a language code, the code itself where it has none."""
    try:
        name = babel.Locale("en").languages.get(code)
    except babel.UnknownLocaleError:
        name = None
    return str(name) if name else code


def budget_label(budget: str) -> str:
    """A budget in words: as published, or a percentage."""
    if budget in ("", "published"):
        return "as published" if budget else ""
    if budget == "any":
        return "any number"
    try:
        return f"{float(budget) * 100:g} %"
    except ValueError:
        return budget


def method_label(method: str, budget: str = "") -> str:
    """Name of a method, with its budget where one is given."""
    name = METHOD_LABELS.get(method, method.replace("_", " ").capitalize())
    return f"{name}, {budget_label(budget)}" if budget else name


def ordered_languages(codes: Iterable[str]) -> list[str]:
    """Languages once each: those of the study in its order, then others by code."""
    known = list(LANGUAGE_COLOURS)
    return sorted(set(codes), key=lambda code: (known.index(code) if code in known else len(known), code))


def ordered_sets(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of method and budget once each: methods in the order of the study, "published" first."""
    known = list(METHOD_COLOURS)
    return sorted(
        set(pairs),
        key=lambda pair: (known.index(pair[0]) if pair[0] in known else len(known), pair[1] != "published", pair),
    )


def ink_on(colour: Any) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


_mark: ContextVar[str] = ContextVar("mark", default="")


@contextmanager
def marked(text: str) -> Iterator[None]:
    """Every figure saved in the block has `text` above it."""
    token = _mark.set(text)
    try:
        yield
    finally:
        _mark.reset(token)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as ``path.png`` and ``path.pdf``, what it shows as ``path.txt``: equal figures, equal bytes."""
    plain: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    if mark := _mark.get():
        figure.suptitle(mark, fontsize=8, color="#b00020")
    figure.draw_without_rendering()  # lays the figure out once, for both files
    figure.set_layout_engine("none")
    box = figure.get_tightbbox().padded(0.06)
    for kind, metadata in plain.items():
        with atomic(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=160, bbox_inches=box, metadata=metadata)
    write_text(path.with_name(f"{path.name}.txt"), describe(figure))
    figure.clear()


@contextmanager
def drawing(path: Path, *, width: float = 7.0, height: float = 3.0, placed_by_hand: bool = False) -> Iterator[Figure]:
    """A figure in the study's style, saved under `path` (without suffix) at the end of the block.

    Parameters
    ----------
    width, height : inches
    placed_by_hand : the axes stay where they are put
    """
    with matplotlib.style.context(["default", {**_RC, "font.family": families()}]):
        figure = Figure(figsize=(width, height), layout=None if placed_by_hand else "constrained")
        yield figure
        save_figure(figure, Path(path))
