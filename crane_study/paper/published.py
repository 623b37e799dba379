"""The paper's published numbers as tidy result rows, their LangSpec-F, and the claims judged by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd

from crane_lib.methods import TOP_ROWS
from crane_lib.specificity import LangSpec, langspec
from crane_study import ROOT
from crane_study.frames import read_frame
from crane_study.measure.rows import langspec_rows
from crane_study.paper.claims import judge, load_rules
from crane_study.uncertainty.open_ended import FORMS, METRIC

PUBLISHED = ROOT / "expected" / "published.csv"
ACCURACY: Final = "accuracy"
LANGUAGE_OF_TASK = {"MMLU": "en", "C-Eval": "zh", "Belebele-vi": "vi"}
TASK_OF_LANGUAGE = {language: task for task, language in LANGUAGE_OF_TASK.items()}
FORM: dict[str, Any] = dict(zip(("beta", "form"), FORMS["released"], strict=True))  # of F for open answers
MASKED = ["selected_on", "method", "budget", "masked_language"]
_OPEN_ENDED = "open-ended-"
_OVERLAP = "overlap with "
_METHODS = {"none": "none", "CRANE": "kurtosis", "LAPE": "lape", "random (layer-matched)": "random_like_kurtosis"}
_TOP_PERCENT = "CRANE top 1%"
_MODELS = {"Llama-2-7b-hf": "base", "Llama-2-7b-chat-hf": "chat"}

MaskKey = tuple[str, ...]  # a mask by the columns of `MASKED`
Scores = dict[str, float]  # by language


def _read() -> pd.DataFrame:
    """The published numbers, with models, methods and budgets named as in result rows."""
    frame = read_frame(PUBLISHED)
    top, masked = frame["method"] == _TOP_PERCENT, frame["masked_language"] != ""
    return frame.assign(
        model=frame["model"].map(_MODELS),
        paper_method=frame["method"],
        method=frame["method"].mask(top, "CRANE").map(_METHODS),
        budget=masked.map({True: "published", False: ""}).mask(top, TOP_ROWS),
        value=frame["value"].astype(float),
    )


def _rows(frame: pd.DataFrame, *, languages: pd.Series, task: str, metric: str) -> pd.DataFrame:
    """Tidy result rows, without the number of questions and with an unknown masked share of 0."""
    random = frame["method"].str.startswith("random").map({True: 0, False: -1})
    rows = frame[["model", *MASKED, "value"]].assign(profile="published", random_seed=random, masked_share=0.0)
    return rows.assign(evaluation_language=languages, task=task, metric=metric).reset_index(drop=True)


def published_rows() -> pd.DataFrame:
    """The published benchmark accuracies as tidy result rows; each language is evaluated by its own benchmark."""
    frame = _read()
    frame = frame[frame["task"].isin(LANGUAGE_OF_TASK) & frame["method"].notna()]
    return _rows(frame, languages=frame["task"].map(LANGUAGE_OF_TASK), task="nlu", metric=ACCURACY)


def published_scores() -> pd.DataFrame:
    """The published judge scores of open-ended answers (chat model) as tidy result rows."""
    frame = _read()
    frame = frame[frame["task"].str.startswith(_OPEN_ENDED)]
    languages = frame["task"].str.removeprefix(_OPEN_ENDED)
    return _rows(frame, languages=languages, task="open_ended", metric=METRIC)


def published_overlaps() -> pd.DataFrame:
    """The published overlaps of the released rule's sets; language_b may be ``random``, a random set."""
    frame = _read()
    frame = frame[frame["task"].str.startswith(_OVERLAP)]
    frame = frame.assign(language_b=frame["task"].str.removeprefix(_OVERLAP))
    names = {"masked_language": "language_a", "value": "share_of_a"}
    return frame.rename(columns=names)[["language_a", "language_b", "share_of_a"]].reset_index(drop=True)


def published_langspec(rows: pd.DataFrame) -> pd.DataFrame:
    """LangSpec rows of the published accuracies by the paper's formula, which does not correct them for chance."""
    return langspec_rows(rows, measure=ACCURACY, corrected=False)


def masks_of(rows: pd.DataFrame) -> Iterator[tuple[MaskKey, Scores, Scores]]:
    """Yield the scores without a mask and under each mask and draw, if the mask was evaluated in every language."""

    def scores(part: pd.DataFrame) -> Scores:
        return {row.evaluation_language: float(row.value) for row in part.itertuples()}

    before = scores(rows[rows["masked_language"] == ""])
    for key, part in rows[rows["masked_language"] != ""].groupby([*MASKED, "random_seed"], sort=False):
        after = scores(part)
        if set(after) == set(before) and len(before) > 1:
            yield tuple(key[:-1]), before, after


def _by_mask(rows: pd.DataFrame, **form: Any) -> dict[MaskKey, list[LangSpec]]:
    """LangSpec of every mask and draw of one model and metric; `form` as for `langspec`."""
    found: dict[MaskKey, list[LangSpec]] = {}
    for key, before, after in masks_of(rows):
        found.setdefault(key, []).append(langspec(before, after, target=key[3], **form))
    return found


def langspec_by_mask(rows: pd.DataFrame, **form: Any) -> dict[MaskKey, float]:
    """LangSpec-F of every mask of one model and metric, mean over draws, by the paper's formula."""
    return {key: float(np.mean([one.f for one in draws])) for key, draws in _by_mask(rows, **form).items()}


def recomputed_langspec() -> pd.DataFrame:
    """LangSpec-F computed from the published scores, with precision and recall, and the published or stated values.

    Benchmarks: F1, mean of the other drops. Open-ended answers: the released form with beta 4, mean of the others.
    """
    rows = published_rows()
    by_accuracy = {model: _by_mask(part) for model, part in rows.groupby("model")}
    by_score = _by_mask(published_scores(), **FORM)
    stated = _read()
    records = []
    for row in stated[stated["metric"].str.startswith("langspec_f")].itertuples():
        of_benchmarks = row.metric == "langspec_f1"
        (found,) = (by_accuracy[row.model] if of_benchmarks else by_score)[tuple(getattr(row, name) for name in MASKED)]
        place = "benchmarks" if of_benchmarks else "open-ended generation"
        values = (found.precision, found.recall, row.value, found.f, found.f - row.value)
        records.append((place, row.model, row.paper_method, row.masked_language, *values))
    columns = ["place", "model", "paper_method", "masked_language", "precision", "recall"]
    columns += ["stated", "recomputed", "difference"]
    return pd.DataFrame(records, columns=columns)


def judge_published() -> list[dict[str, Any]]:
    """Verdicts of the claims' rules on the published numbers of the released rule, by accuracy."""
    rows = published_rows()
    rules = {**load_rules(), "methods": {"kurtosis": "published"}, "measures": [ACCURACY]}
    return judge(rows=rows, langspec=published_langspec(rows), overlaps=None, budget=0.1, rules=rules)
