"""Figures of what masks do: change matrices and LangSpec-F1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from crane_lib.errors import CraneError
from crane_lib.output.frames import SET, effects, over_draws, pick, tidy
from crane_lib.output.panels import (
    grid,
    grid_height,
    language_cells,
    language_heat_map,
    name_panel,
    scale_around_zero,
)
from crane_lib.output.style import (
    METRIC_LABELS,
    MODEL_LABELS,
    drawing,
    language_colours,
    language_name,
    method_colour,
    method_label,
    ordered_languages,
    ordered_sets,
)

_CHANGE = {
    "nll": ("NLL rise (nats per token)", "Rise of the NLL of held-out documents (nats per token)", 1),
    "accuracy": ("Accuracy lost", "Accuracy lost on four-way questions (share of the questions)", -1),
    "token_probability": ("Token probability lost", "Loss of the mean token probability exp(-NLL)", -1),
}
_MEAN = "mean"


def _nothing(what: str) -> CraneError:
    return CraneError(f"figure: the rows have no {what}; run the sections that evaluate first")


def delta_matrices(
    rows: pd.DataFrame,
    path: Path,
    *,
    metric: str = "nll",
    model: str = "base",
    selected_on: str | None = None,
    intervals: pd.DataFrame | None = None,
) -> str:
    """Heat maps of what each mask costs each language, one a method and budget, all on one colour scale.

    Parameters
    ----------
    rows : tidy result rows
    metric : ``nll`` (its rise), ``accuracy`` or ``token_probability`` (its drop)
    selected_on : model the sets were chosen on; the masked one unless given
    intervals : rows of `crane_lib.evaluation.uncertainty.drop_intervals`, for the cells of masks that were not drawn

    Returns
    -------
    the caption
    """
    label, sentence, sign = _CHANGE[metric]
    selected_on = model if selected_on is None else selected_on
    found = pick(effects(rows, metric=metric), model=model, selected_on=selected_on)
    if found.empty:
        raise _nothing(f"masked {metric} for {model}")
    found = found.assign(cost=sign * found["change"])
    cells = over_draws(found, by=["method", "budget", "masked_language", "evaluation_language"], value="cost")
    if intervals is not None:
        cells = _with_intervals(cells, intervals, metric=metric, selected_on=selected_on, sign=sign)
    languages = ordered_languages(cells["evaluation_language"])
    sets = ordered_sets(zip(cells["method"], cells["budget"], strict=True))
    limits, scale, colours = scale_around_zero(cells["mean"])
    columns = 3
    with drawing(path, width=6.6, height=grid_height(len(sets), columns=columns, panel=2.0)) as figure:
        panels = grid(figure, len(sets), columns=columns)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            part = pick(cells, method=method, budget=budget)
            values, texts = language_cells(part, languages, value="mean", text=_cell_text)
            image = language_heat_map(panel, values, texts, languages=languages, colours=colours, scale=scale)
            name_panel(panel, method, budget)
            panel.set_ylabel("Masked" if number % columns == 0 else "")
            panel.set_xlabel("Evaluated" if number + columns >= len(sets) else "")
        bar = figure.colorbar(image, ax=panels, shrink=0.6, label=label)
        bar.ax.set_ylim(*limits)
    draws = int(cells["draws"].max())
    spread = f" Random sets: mean over {draws} draws, below it their lowest to highest." if draws > 1 else ""
    spread += "" if intervals is None else " Other sets: below it the 95 % interval of a paired bootstrap over items."
    where = MODEL_LABELS.get(model, model).lower()
    source = f", units selected on the {MODEL_LABELS.get(selected_on, selected_on).lower()}"
    source = "" if selected_on == model else source
    return (
        f"{sentence} when a language's units are masked (rows), evaluated on each language (columns); {where}{source}. "
        f"One colour scale for all panels.{spread}"
    )


def _with_intervals(
    cells: pd.DataFrame, intervals: pd.DataFrame, *, metric: str, selected_on: str, sign: int
) -> pd.DataFrame:
    """Cells of masks that were not drawn, with the interval in the place of the range over draws."""
    by = ["method", "budget", "masked_language", "evaluation_language"]
    found = pick(tidy(intervals, needed=[*by, "low", "high"]), metric=metric, selected_on=selected_on, random_seed=-1)
    bounds = (sign * found[["low", "high"]]).agg(["min", "max"], axis=1)
    found = found[by].assign(low=bounds["min"], high=bounds["max"])
    cells = cells.merge(found, on=by, how="left", validate="one_to_one")
    known = cells["low"].notna()
    cells["lowest"], cells["highest"] = (
        cells["low"].where(known, cells["lowest"]),
        cells["high"].where(known, cells["highest"]),
    )
    return cells.drop(columns=["low", "high"])


def _cell_text(cell: pd.Series) -> str:
    """Mean of a cell, with the range over draws or the interval below it where there is one."""
    mean, lowest, highest = (f"{cell[name]:z.3f}" for name in ("mean", "lowest", "highest"))
    return mean if cell["lowest"] == cell["highest"] else f"{mean}\n{lowest}\nto {highest}"


def langspec_bars(
    langspec: pd.DataFrame,
    path: Path,
    *,
    model: str = "base",
    selected_on: str | None = None,
    intervals: pd.DataFrame | None = None,
) -> str:
    """LangSpec-F1 of every method and budget: a bar a language and one for the mean, a dot for each random draw.

    Parameters
    ----------
    intervals : rows of `crane_lib.evaluation.uncertainty.langspec_intervals`, drawn on the bars of a language

    Returns
    -------
    the caption
    """
    selected_on = model if selected_on is None else selected_on
    frame = tidy(langspec, needed=[*SET, "masked_language", "metric", "langspec_f1", "random_seed"])
    frame = pick(frame, model=model, selected_on=selected_on)
    if frame.empty:
        raise _nothing(f"LangSpec-F1 for {model}")
    metrics = [metric for metric in METRIC_LABELS if metric in set(frame["metric"])]
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(frame["masked_language"])
    with drawing(path, width=7.0, height=0.5 * len(sets) + 0.9) as figure:
        panels = grid(figure, len(metrics), columns=len(metrics), sharey=True, sharex=True)
        for panel, metric in zip(panels, metrics, strict=True):
            part = pick(frame, metric=metric)
            for row, (method, budget) in enumerate(sets):
                group = pick(part, method=method, budget=budget)
                _langspec_group(panel, group, row=row, languages=languages, mean_colour=method_colour(method))
                if intervals is not None:
                    found = pick(intervals, metric=metric, method=method, budget=budget, random_seed=-1)
                    _langspec_intervals(panel, found, row=row, languages=languages)
            panel.set_title(f"By {METRIC_LABELS[metric].lower()}")
            panel.set_xlabel("LangSpec-F1 (0 to 1)")
            panel.grid(axis="x")
            panel.set_ylim(len(sets) - 0.5, -0.5)
        panels[0].set_yticks(range(len(sets)), [method_label(method, budget) for method, budget in sets])
        panels[0].set_xlim(left=0)
        colours = language_colours(languages)
        handles = [Patch(color=colours[code], label=language_name(code)) for code in languages]
        handles.append(Patch(color="#777777", label="Mean (in the method's colour)"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    by = ["metric", "method", "budget", "masked_language"]
    draws = int(over_draws(frame, by=by, value="langspec_f1")["draws"].max())
    dots = f" Random sets: bars are means over {draws} draws, each draw a dot." if draws > 1 else ""
    dots += "" if intervals is None else " Lines: 95 % intervals of a paired bootstrap over items."
    return (
        f"LangSpec-F1 of each method's masks, a language and on average; {MODEL_LABELS.get(model, model).lower()}, "
        f"judged by {' and by '.join(METRIC_LABELS[metric].lower() for metric in metrics)}.{dots}"
    )


def _langspec_group(axes: Axes, part: pd.DataFrame, *, row: int, languages: list[str], mean_colour: str) -> None:
    """Bars of one method and budget at height `row`."""
    colours = language_colours(languages)
    height = 0.8 / (len(languages) + 1)
    a_draw = part.groupby("random_seed")["langspec_f1"].mean()
    for number, code in enumerate([*languages, _MEAN]):
        values = a_draw if code == _MEAN else pick(part, masked_language=code)["langspec_f1"]
        if not len(values):
            continue
        place = row + (number - len(languages) / 2) * height
        name = "Mean" if code == _MEAN else language_name(code)
        colour = mean_colour if code == _MEAN else colours[code]
        axes.barh(place, values.mean(), height, color=colour, label=f"_{name}")
        if len(values) > 1:
            dots: dict[str, Any] = {
                "markersize": 2.6,
                "mfc": "white",
                "mec": "black",
                "mew": 0.6,
                "label": f"_{name}, draws",
            }
            axes.plot(values, [place] * len(values), "o", **dots)


def _langspec_intervals(axes: Axes, found: pd.DataFrame, *, row: int, languages: list[str]) -> None:
    """Intervals on the bars of the languages at height `row`."""
    height = 0.8 / (len(languages) + 1)
    for number, code in enumerate(languages):
        place = row + (number - len(languages) / 2) * height
        label = f"_{language_name(code)}, 95 % interval"
        for low, high in pick(found, masked_language=code)[["low", "high"]].to_numpy():
            axes.plot([low, high], [place, place], color="black", linewidth=0.9, label=label)
