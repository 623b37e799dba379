"""Tables of steering: examples of answers, which a reader can judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from crane_study.frames import read_frame
from crane_study.labels import language_name
from crane_study.measure.steering import ASKED, NONE
from crane_study.uncertainty.steering import HOW, WAY_COLUMNS, strengths

if TYPE_CHECKING:
    from crane_study.study import Study
    from crane_study.uncertainty.steering import Answered

_LONGEST = 110  # characters of an answer in a table


def steered_answers(study: Study) -> pd.DataFrame:
    """Answers of the steered model (`crane_study.steps.steering.make_steering`)."""
    return read_frame(study.steering() / "answers.parquet")


def how_measured(answers: pd.DataFrame) -> str:
    """One sentence on what the numbers are of."""
    prompts = answers["prompt"].nunique()
    if (answers["measure"] == "facts").all():
        relevance = "Relevance: the expected answer is named, in any language."
    else:
        relevance = "Relevance: retrieval of the answer's own prompt, corrected for chance."
    return (
        f"{prompts} prompts in each language, all ordered pairs of languages. Forcing: share of answers in the wanted "
        f"language. {relevance} Score: harmonic mean of both. Both: relevance of answers in the wanted language, 0 of "
        "others. Means over the pairs; intervals: 95 %, bootstrap over prompts."
    )


def examples(answers: pd.DataFrame, found: Answered) -> pd.DataFrame:
    """Answers to the first prompt of every wanted language, of each method at its best strength of the sweep."""
    table = strengths(found)
    best = table.loc[table.groupby(HOW, sort=False)["score"].idxmax(), WAY_COLUMNS]
    first = answers[answers["prompt"] == answers["prompt"].min()]
    rows = first.merge(best, on=WAY_COLUMNS)
    rows = rows[(rows["method"] == ASKED) | (rows["prompt_language"] != rows["wanted_language"])]
    rows = rows[rows["draw"] <= 0].drop_duplicates([*HOW, "wanted_language"])
    order = {NONE: 0, ASKED: 1}
    rows = rows.sort_values("method", key=lambda names: names.map(order).fillna(2), kind="stable")
    shown = rows["answer"].map(lambda text: " ".join(text.split())[:_LONGEST] or "(empty)")
    detected = rows["language"].map(lambda code: language_name(code) if code else "none detected")
    columns = [*HOW, "strength", "prompt_language", "wanted_language"]
    return rows[columns].assign(detected=detected, relevance=rows["relevance"], answer=shown).reset_index(drop=True)
