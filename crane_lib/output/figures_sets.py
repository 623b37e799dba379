"""Figures of neuron sets: where their units lie and how much the languages share."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from crane_lib.errors import CraneError
from crane_lib.output.frames import pick, tidy
from crane_lib.output.panels import by_layer, grid, grid_height, language_heat_map, legend_below, name_panel
from crane_lib.output.style import drawing, ordered_languages, ordered_sets

SIGNIFICANCE = 0.01


def _of_model(frame: pd.DataFrame, model: str | None) -> pd.DataFrame:
    """Sets of one model that are not random draws; `model` None takes the only one there is, or "base"."""
    frame = tidy(frame, needed=["model", "method", "budget"])
    models = sorted(set(frame["model"]))
    chosen = model if model is not None else (models[0] if len(models) == 1 else "base")
    frame = frame[(frame["model"] == chosen) & ~frame["method"].str.startswith("random")]
    if frame.empty:
        raise CraneError(f"figure: no sets of model {chosen!r}; there are {', '.join(models) or 'none'}")
    return frame


def set_counts_figure(counts: pd.DataFrame, path: Path, *, model: str | None = None) -> str:
    """Units of each set by layer, a panel a method and budget.

    Parameters
    ----------
    counts : frame of `crane_lib.overlap.set_counts`

    Returns
    -------
    the caption
    """
    frame = _of_model(counts, model)
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["language"])
    with drawing(path, width=7.0, height=grid_height(len(sets), columns=3, panel=1.65, rest=0.6)) as figure:
        panels = grid(figure, len(sets), columns=3)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            part = pick(frame, method=method, budget=budget)
            table = part.pivot_table(index="layer", columns="language", values="count", aggfunc="sum")
            by_layer(panel, {code: table[code].to_numpy() for code in languages if code in table})
            sites = ", ".join(dict.fromkeys(part["site"]))
            name_panel(panel, method, budget, note=f"({sites})")
            panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            panel.set_ylabel("Units" if number % 3 == 0 else "")
            panel.set_xlabel("Layer" if number + 3 >= len(sets) else "")
        legend_below(figure, panels[0])
    return (
        "Number of units in each language's set, by layer. The sites a method selects from stand in brackets; where "
        "there are several their counts are added."
    )


def overlap_matrix(overlaps: pd.DataFrame, path: Path, *, model: str | None = None) -> str:
    """Share of each language's set that is also in another's, with the share expected by chance.

    Parameters
    ----------
    overlaps : frame of `crane_lib.overlap.overlaps`

    Returns
    -------
    the caption
    """
    frame = _of_model(overlaps, model)
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["language_a"])
    scale = Normalize(0, max(100 * float(frame["share_of_a"].max()), 1.0))
    colours, columns = matplotlib.colormaps["Purples"].with_extremes(bad="#EDEDED"), 3
    with drawing(path, width=6.6, height=grid_height(len(sets), columns=columns, panel=2.0)) as figure:
        panels = grid(figure, len(sets), columns=columns)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            part = pick(frame, method=method, budget=budget)
            values = np.full((len(languages), len(languages)), np.nan)
            texts = [[""] * len(languages) for _ in languages]
            for row in part.itertuples():
                i, j = languages.index(row.language_a), languages.index(row.language_b)
                values[i, j] = 100 * row.share_of_a
                star = "*" if row.p_value < SIGNIFICANCE else ""
                low, high = 100 * row.chance_low, 100 * row.chance_high
                texts[i][j] = f"{values[i, j]:.1f}{star}\n({low:.1f}–{high:.1f})"
            image = language_heat_map(panel, values, texts, languages=languages, colours=colours, scale=scale)
            name_panel(panel, method, budget)
            panel.set_ylabel("Units of" if number % columns == 0 else "")
            panel.set_xlabel("that are also units of" if number + columns >= len(sets) else "")
        figure.colorbar(image, ax=panels, shrink=0.6, label="Share of the row's set (%)")
    return (
        "Share (%) of each language's set (rows) that is also in the other language's (columns). In brackets the "
        "range that holds 95 % of the shares of sets placed at random with their counts kept in every layer and site "
        "(exact); a star marks "
        f"more than chance at p < {SIGNIFICANCE}."
    )
