"""Figures of open-ended generation: what each mask does to the judge's scores, and LangSpec-F with its interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.patches import Patch

from crane_lib.errors import CraneError
from crane_study.figures.panels import (
    grid,
    grid_height,
    language_cells,
    language_heat_map,
    name_panel,
    scale_around_zero,
)
from crane_study.figures.style import drawing, language_colours, method_colour
from crane_study.labels import language_name, method_label, ordered_languages, ordered_sets
from crane_study.measure.rows import pick

_FORMS = {"f1": "LangSpec-F1 (0 to 1)", "released": "LangSpec-F, released form (0 to 1)"}


def _points(cell: pd.Series) -> str:
    """Points lost, and below them their interval."""
    return f"{cell['lost']:z.1f}\n{-cell['high']:z.1f}\nto {-cell['low']:z.1f}"


def score_matrices(changes: pd.DataFrame, path: Path, *, selected_on: str = "base") -> str:
    """Heat maps of the points that each mask costs each language, one a method and budget, on one colour scale.

    Parameters
    ----------
    changes : frame of `crane_study.uncertainty.open_ended.score_changes`

    Returns
    -------
    the caption
    """
    found = pick(changes, selected_on=selected_on)
    if found.empty:
        raise CraneError(f"figure: no judged answers under sets selected on the {selected_on} model")
    languages = ordered_languages(found["evaluation_language"])
    sets = ordered_sets(zip(found["method"], found["budget"], strict=True))
    found = found.assign(lost=-found["change"])
    limits, scale, colours = scale_around_zero(found["lost"])
    with drawing(path, width=6.6, height=grid_height(len(sets), columns=3, panel=2.0)) as figure:
        panels = grid(figure, len(sets), columns=3)
        for number, (panel, (method, budget)) in enumerate(zip(panels, sets, strict=True)):
            part = pick(found, method=method, budget=budget)
            values, texts = language_cells(part, languages, value="lost", text=_points)
            image = language_heat_map(panel, values, texts, languages=languages, colours=colours, scale=scale)
            name_panel(panel, method, budget)
            panel.set_ylabel("Masked" if number % 3 == 0 else "")
            panel.set_xlabel("Evaluated" if number + 3 >= len(sets) else "")
        bar = figure.colorbar(image, ax=panels, shrink=0.6 if len(sets) > 3 else 0.9, label="Judge score lost (points)")
        bar.ax.set_ylim(*limits)
    draws = int(found["draws"].max())
    drawn = f" Random sets: mean over {draws} draws." if draws > 1 else ""
    return (
        "Points of the judge's score (1 to 10) that the chat model's answers lose when a language's units, selected on "
        f"the {selected_on} model, are masked (rows), by language of the question (columns). Below each number its "
        f"95 % interval (paired bootstrap over {int(found['n'].max())} questions a language). One colour scale.{drawn}"
    )


def open_langspec_bars(langspec: pd.DataFrame, path: Path, *, selected_on: str = "base") -> str:
    """LangSpec-F of every method and budget in both forms: a bar a language and one for the mean, with intervals.

    Parameters
    ----------
    langspec : frame of `crane_study.uncertainty.open_ended.open_langspec`

    Returns
    -------
    the caption
    """
    frame = pick(langspec, selected_on=selected_on)
    if frame.empty:
        raise CraneError(f"figure: no LangSpec-F of sets selected on the {selected_on} model")
    sets = ordered_sets(zip(frame["method"], frame["budget"], strict=True))
    languages = ordered_languages(code for code in frame["masked_language"] if code != "mean")
    colours = language_colours(languages)
    height = 0.8 / (len(languages) + 1)
    with drawing(path, width=7.0, height=0.5 * len(sets) + 0.9) as figure:
        panels = grid(figure, len(_FORMS), columns=len(_FORMS), sharey=True, sharex=True)
        for panel, (form, label) in zip(panels, _FORMS.items(), strict=True):
            for row, (method, budget) in enumerate(sets):
                part = pick(frame, form=form, method=method, budget=budget).set_index("masked_language")
                for number, code in enumerate([*languages, "mean"]):
                    if code not in part.index:
                        continue
                    cell = part.loc[code]
                    place = row + (number - len(languages) / 2) * height
                    name = "_Mean" if code == "mean" else f"_{language_name(code)}"
                    colour = colours.get(code, method_colour(method))
                    panel.barh(place, cell["langspec"], height, color=colour, label=name)
                    interval: dict[str, Any] = {"color": "black", "linewidth": 0.8, "label": f"{name}, 95 % interval"}
                    panel.plot([cell["low"], cell["high"]], [place, place], **interval)
            panel.set_xlabel(label)
            panel.grid(axis="x")
            panel.set_ylim(len(sets) - 0.5, -0.5)
        panels[0].set_yticks(range(len(sets)), [method_label(method, budget) for method, budget in sets])
        panels[0].set_xlim(left=0)
        handles = [Patch(color=colours[code], label=language_name(code)) for code in languages]
        handles.append(Patch(color="#777777", label="Mean (in the method's colour)"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return (
        "LangSpec-F of each method's masks by the judge's scores, a language and on average: F1, and the released form "
        f"with beta 4; chat model, units selected on the {selected_on} model. Lines: 95 % intervals (bootstrap over "
        "questions); random sets are means over their draws."
    )
