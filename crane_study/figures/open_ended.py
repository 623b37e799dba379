"""Figures of open-ended generation: the points that masks cost in the judge's scores, and LangSpec-F of the scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from crane_lib.errors import CraneError
from crane_study.figures.effects import PARTS_TOLD, TRIVIAL_TOLD
from crane_study.figures.panels import MEAN, language_bars, language_matrices
from crane_study.measure.rows import EVERYTHING, pick

_FORMS = {"f1": ("", "LangSpec-F1 (0 to 1)"), "released": ("", "LangSpec-F, released form (0 to 1)")}


def score_matrices(changes: pd.DataFrame, path: Path, *, selected_on: str = "base") -> str:
    """Heat maps of the points (`score_changes`) that each mask costs each language, one per method and budget."""
    found = pick(changes[changes["method"] != EVERYTHING], selected_on=selected_on)
    if found.empty:
        raise CraneError(f"figure: no judged answers under sets selected on the {selected_on} model")
    cells = found.rename(columns={"masked_language": "row", "evaluation_language": "column"})
    cells = cells.assign(value=-cells["change"])
    cells["text"] = [f"{row.value:z.1f}\n{-row.high:z.1f}\nto {-row.low:z.1f}" for row in cells.itertuples()]
    language_matrices(cells, path, "Judge score lost (points)")
    draws = int(found["draws"].max())
    drawn = f" Random sets: mean over {draws} draws." if draws > 1 else ""
    return (
        "Points of the judge's score (1 to 10) that the chat model's answers lose when a language's units, selected on "
        f"the {selected_on} model, are masked (rows), by language of the question (columns). Below each number its "
        f"95 % interval (paired bootstrap over {int(found['n'].max())} questions per language). One colour scale."
        f"{drawn}"
    )


def open_langspec_bars(langspec: pd.DataFrame, path: Path, *, selected_on: str = "base") -> str:
    """LangSpec-F (`open_langspec`) of every set in both forms: a bar per language and one for the mean."""
    off = langspec["method"] == EVERYTHING
    trivial = pick(langspec[off], masked_language="mean").set_index("form")["langspec"].to_dict()
    frame = pick(langspec[~off], selected_on=selected_on)
    if frame.empty:
        raise CraneError(f"figure: no LangSpec-F of sets selected on the {selected_on} model")
    frame = frame.rename(columns={"form": "panel", "masked_language": "language", "langspec": "value"})
    language_bars(frame.assign(language=frame["language"].replace("mean", MEAN)), path, _FORMS, lines=trivial)
    return (
        "LangSpec-F of each method's masks by the judge's scores, per language and on average: F1, and the released "
        f"form with beta 4; chat model, units selected on the {selected_on} model. Lines: 95 % intervals (bootstrap "
        f"over questions); random sets are means over their draws. {PARTS_TOLD}{TRIVIAL_TOLD if trivial else ''}"
    )
