"""Figures of what masks do: change matrices and LangSpec-F1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from crane_lib.errors import CraneError
from crane_study.figures.panels import (
    grid,
    grid_height,
    language_cells,
    language_heat_map,
    legend_below,
    name_panel,
    scale_around_zero,
)
from crane_study.figures.style import drawing, language_colours, method_colour
from crane_study.labels import (
    METRIC_LABELS,
    MODEL_LABELS,
    language_name,
    method_label,
    ordered_languages,
    ordered_sets,
    set_names,
)
from crane_study.measure.rows import SET, effects, over_draws, pick, tidy

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
    intervals : rows of `crane_study.uncertainty.intervals.drop_intervals`, for the cells of masks that were not drawn

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
    intervals : rows of `crane_study.uncertainty.intervals.langspec_intervals`, drawn on the bars of a language

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


def dose_response(curves: pd.DataFrame, path: Path) -> str:
    """LangSpec-F1 over the budget, a line a method with its band; a panel a measure.

    Parameters
    ----------
    curves : rows of `crane_study.tables.dose_curves`, of one measure or several

    Returns
    -------
    the caption
    """
    if curves.empty:
        raise CraneError("figure: no dose-response rows; run the section on controls first")
    metrics = [metric for metric in METRIC_LABELS if metric in set(curves["metric"])]
    methods = [method for method in set_names() if method in set(curves["method"])]
    with drawing(path, width=7.0, height=3.9) as figure:
        panels = grid(figure, len(metrics), columns=len(metrics), sharey=True)
        for panel, metric in zip(panels, metrics, strict=True):
            for method in methods:
                part = curves[(curves["metric"] == metric) & (curves["method"] == method)].sort_values("share")
                if part.empty:
                    continue
                drawn = method.startswith("random")
                low, high = ("lowest", "highest") if drawn else ("low", "high")
                x, colour = 100 * part["share"], method_colour(method)
                panel.fill_between(x, part[low], part[high], color=colour, alpha=0.18, linewidth=0)
                line: dict[str, Any] = {"linestyle": "--"} if drawn else {"marker": "o", "markersize": 3}
                panel.plot(x, part["mean"], color=colour, label=method_label(method), **line)
            panel.set_xscale("log")
            ticks = sorted(set(100 * curves[curves["metric"] == metric]["share"]))
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.set_xlabel("Budget (% of the units, log scale)")
            panel.set_title(f"By {METRIC_LABELS[metric].lower()}")
            panel.grid(axis="y")
        panels[0].set_ylabel("LangSpec-F1 (mean over languages)")
        panels[0].set_ylim(0, 1)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return (
        "LangSpec-F1, mean over languages, of every method over the share of units that it masks. Bands: 95 % "
        "bootstrap intervals over the sampled documents or questions; for random masks (dashed) the lowest to highest "
        "draw. A mask that destroys all languages alike scores up to two thirds, which is where random masks end."
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
    table : of `crane_study.tables.effects.transfer_table`, of the metric; where it has intervals, they are
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
