"""Our LangSpec-F beside the paper's, on benchmarks and on open answers: values, or the order of the methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.evaluation.open_ended import FORMS, MEAN
from crane_lib.metrics import langspec
from crane_lib.output.beside import ACCURACY, MASK, in_order, published_of, within
from crane_lib.output.frames import pick, tidy
from crane_lib.output.judging import NOT_RUN
from crane_lib.output.published import TASK_OF_LANGUAGE
from crane_lib.output.style import ordered_languages
from crane_lib.output.tolerances import Tolerances

RELEASED = "released"  # the form of F that the paper reports for open answers
_BETA, _FORM = FORMS[RELEASED]
_OPEN: dict[str, Any] = {"beta": _BETA, "form": _FORM}
Scores = dict[str, float]  # of a mask, a language
Found = Mapping[tuple[str, ...], float]  # LangSpec-F of a mask, by the columns of MASK


def langspec_beside(rows: pd.DataFrame, *, model: str, tolerances: Tolerances) -> pd.DataFrame:
    """LangSpec-F1 from the published accuracies beside ours.

    Returns
    -------
    frame with method, budget, masked_language, published, ours (mean over draws), difference, tolerance and within
    """

    def tolerance(before: Scores, after: Scores, target: str) -> float:
        return tolerances.langspec_f1(before, after, target=target, tasks=TASK_OF_LANGUAGE)

    return _values(published_of(model, open_ended=False), _of_accuracy(rows, model=model), tolerance)


def open_langspec_beside(found: pd.DataFrame, *, tolerances: Tolerances) -> pd.DataFrame:
    """LangSpec-F of open answers from the published judge scores beside ours, in the released form with beta 4.

    Parameters
    ----------
    found : frame of `crane_lib.evaluation.open_ended.open_langspec`, of the chat model

    Returns
    -------
    as `langspec_beside`
    """

    def tolerance(before: Scores, after: Scores, target: str) -> float:
        return tolerances.open_langspec(before, after, target=target, **_OPEN)

    return _values(_published_open(), _of_scores(found), tolerance, **_OPEN)


def ranks_beside(rows: pd.DataFrame, *, model: str) -> pd.DataFrame:
    """Order of the methods by mean LangSpec-F1 on accuracy, published and ours; 1 is the most specific.

    Returns
    -------
    frame with method, budget, rank_published, rank_ours (NOT RUN where a mask is missing), same_direction
    """
    return _order(_langspec(published_of(model, open_ended=False)), _of_accuracy(rows, model=model))


def open_ranks_beside(found: pd.DataFrame) -> pd.DataFrame:
    """Order of the methods by mean LangSpec-F of open answers, as `ranks_beside`; `found` as `open_langspec_beside`."""
    return _order(_langspec(_published_open(), **_OPEN), _of_scores(found))


def _published_open() -> pd.DataFrame:
    return published_of("chat", open_ended=True).assign(random_seed=-1)


def _scores(rows: pd.DataFrame) -> Scores:
    return {row.evaluation_language: float(row.value) for row in rows.itertuples()}


def _masks(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], Scores, Scores]]:
    """Scores without a mask and under each mask and draw; masks not measured in every language are left out."""
    before = _scores(rows[rows["masked_language"] == ""])
    for key, part in rows[rows["masked_language"] != ""].groupby([*MASK, "random_seed"], sort=False):
        after = _scores(part)
        if set(after) == set(before) and len(before) > 1:
            yield tuple(key[:-1]), before, after


def _langspec(rows: pd.DataFrame, **form: Any) -> Found:
    """LangSpec-F of every mask, mean over draws."""
    found: dict[tuple[str, ...], list[float]] = {}
    for key, before, after in _masks(rows):
        found.setdefault(key, []).append(langspec(before, after, target=key[3], **form).f)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _of_accuracy(rows: pd.DataFrame, *, model: str) -> Found:
    return _langspec(pick(tidy(rows), model=model, metric=ACCURACY))


def _of_scores(found: pd.DataFrame) -> Found:
    """What `open_langspec` found in the released form, a mask; those without a value are left out."""
    part = pick(found, model="chat", form=RELEASED)
    part = part[part["masked_language"] != MEAN].dropna(subset="langspec")
    return {tuple(getattr(row, name) for name in MASK): float(row.langspec) for row in part.itertuples()}


def _values(
    published: pd.DataFrame, ours: Found, tolerance: Callable[[Scores, Scores, str], float], **form: Any
) -> pd.DataFrame:
    records = []
    for key, before, after in _masks(published):
        _selected_on, method, budget, language = key
        stated, found = langspec(before, after, target=language, **form).f, ours.get(key, np.nan)
        records.append((method, budget, language, stated, found, found - stated, tolerance(before, after, language)))
    columns = ["method", "budget", "masked_language", "published", "ours", "difference", "tolerance"]
    table = pd.DataFrame(records, columns=columns)
    table["within"] = within(table)
    return in_order(table)


def _order(theirs: Found, ours: Found) -> pd.DataFrame:
    """Places of the published sets, in the order of their means; sets that we lack are not counted on either side."""
    published, found = _means(theirs), _means(ours)
    shared = [key for key in published if key in found]
    records = []
    for key in published:
        if key in shared:
            first, second = (_place(key, {name: means[name] for name in shared}) for means in (published, found))
            records.append((*key[1:], str(first), str(second), "yes" if first == second else "no"))
        else:
            records.append((*key[1:], NOT_RUN, NOT_RUN, NOT_RUN))
    columns = ["method", "budget", "rank_published", "rank_ours", "same_direction"]
    return in_order(pd.DataFrame(records, columns=columns))


def _means(found: Found) -> dict[tuple[str, ...], float]:
    """Mean over languages of the sets selected on a model by a method at a budget, where every language is there."""
    languages = ordered_languages(key[3] for key in found)
    grouped: dict[tuple[str, ...], list[float]] = {}
    for key, value in found.items():
        grouped.setdefault(key[:3], []).append(value)
    return {key: float(np.mean(values)) for key, values in grouped.items() if len(values) == len(languages)}


def _place(key: tuple[str, ...], means: Mapping[tuple[str, ...], float]) -> int:
    """Place from the largest, equal ones in the same place."""
    return 1 + sum(other > means[key] for other in means.values())
