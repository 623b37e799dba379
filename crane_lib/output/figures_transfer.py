"""Figure of the transfer from the base to the chat model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from crane_lib.errors import CraneError
from crane_lib.output.frames import pick, tidy
from crane_lib.output.panels import grid, grid_height, legend_below, name_panel
from crane_lib.output.style import (
    METRIC_LABELS,
    MODEL_LABELS,
    drawing,
    language_colours,
    language_name,
    ordered_languages,
    ordered_sets,
)

_DIAMOND: dict[str, Any] = {
    "marker": "D",
    "linestyle": "none",
    "color": "black",
    "markersize": 3.4,
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
}
_LINE: dict[str, Any] = {"fmt": "none", "ecolor": "black", "elinewidth": 0.8, "capsize": 1.5}
_COLUMNS = 3
_APART = 0.09  # from a bar's middle: its interval to the left, the diamond with its own to the right


def transfer_figure(table: pd.DataFrame, path: Path, *, metric: str = "token_probability") -> str:
    """What masking sets chosen on the base model costs the base and the chat model, side by side.

    Parameters
    ----------
    table : a transfer table of the metric (`crane_lib.output.tables.transfer_table`); where it has intervals, they are
        drawn

    Returns
    -------
    the caption
    """
    found = pick(tidy(table), selected_on="base")
    found = found[~found["method"].str.startswith("random") & found["model"].isin(["base", "chat"])]
    found = found.assign(model_count=found.groupby(["method", "budget"])["model"].transform("nunique"))
    found = pick(found, model_count=2)
    if found.empty:
        raise CraneError(
            "figure: the rows have no sets chosen on the base model that were masked in both models; run the sections "
            "that evaluate first"
        )
    sets = ordered_sets(zip(found["method"], found["budget"], strict=True))
    languages = ordered_languages(found["masked_language"])
    height = grid_height(len(sets), columns=_COLUMNS, panel=1.85, rest=0.6)
    with drawing(path, width=7.0, height=height) as figure:
        panels = grid(figure, len(sets), columns=_COLUMNS, sharey=True)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            for cell in pick(found, method=method, budget=budget).to_dict("records"):
                _cell(panel, cell, languages=languages)
            panel.axhline(0, color="black", linewidth=0.6)
            panel.set_xticks(range(len(languages)), [language_name(code) for code in languages])
            name_panel(panel, method, budget)
            panel.set_ylabel("Share lost (%)" if number % _COLUMNS == 0 else "")
            panel.grid(axis="y")
        panels[0].bar(0, 0, 0, facecolor="#777777", label="Base model, on the masked language")
        panels[0].bar(0, 0, 0, facecolor="#777777", edgecolor="white", hatch="////", label="Chat model, the same")
        panels[0].plot([], [], **_DIAMOND, label="Worst other language")
        legend_below(figure, panels[0])
    lines = " Lines: 95 % intervals of a paired bootstrap over items." if "own_low" in found else ""
    return (
        f"Share of the unmasked {METRIC_LABELS[metric].lower()} that is lost when the units of a language (horizontal "
        f"axis), selected on the base model, are masked in the base and in the chat model. Diamonds: the other "
        f"language that loses most.{lines}"
    )


def _cell(panel: Axes, cell: dict[Any, Any], *, languages: list[str]) -> None:
    """Bar and diamond of one masked language in one model."""
    masked, chat = cell["masked_language"], cell["model"] == "chat"
    place = languages.index(masked) + (0.2 if chat else -0.2)
    name = f"_{MODEL_LABELS[cell['model']]}"
    hatch = "////" if chat else ""
    style: dict[str, Any] = {"color": language_colours(languages)[masked], "ec": "white", "hatch": hatch}
    on_it, on_other = f"{name}, on the masked language", f"{name}, worst other language"
    panel.bar(place, 100 * cell["own_drop"], 0.38, linewidth=0, label=on_it, **style)
    _interval(panel, place - _APART, cell, of="own", label=on_it)
    if pd.notna(cell["worst_other_drop"]):
        _interval(panel, place + _APART, cell, of="worst_other", label=on_other)
        panel.plot(place + _APART, 100 * cell["worst_other_drop"], **_DIAMOND, label=on_other)


def _interval(panel: Axes, place: float, cell: dict[Any, Any], *, of: str, label: str) -> None:
    """A line over the interval of a drop, where the table has one."""
    low, high = cell.get(f"{of}_low"), cell.get(f"{of}_high")
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return
    middle, half = 50 * (low + high), 50 * (high - low)
    panel.errorbar(place, middle, yerr=half, label=f"{label}, 95 % interval", **_LINE)
