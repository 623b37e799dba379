"""Tables of open-ended generation: LangSpec-F, parts of the scores, and example answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from crane_lib.errors import CraneError
from crane_study.labels import language_name, ordered_languages
from crane_study.measure.rows import COLUMNS, pick
from crane_study.tables import in_study_order
from crane_study.uncertainty.open_ended import MEAN

if TYPE_CHECKING:
    from crane_study.study import Study

_LONGEST = 160  # characters of an answer in a table
_GOOD = 8.0  # score of an answer that is worth showing with its masked ones


def available_rows(study: Study) -> tuple[pd.DataFrame, str]:
    """Judge scores of open-ended answers, and the reason why all or the endpoint's are missing; empty if none is."""
    rows, reason = pd.DataFrame(columns=list(COLUMNS)), study.no_open_ended
    if reason:
        return rows, reason
    try:
        if len(study.judges) > 1:  # the offline judge's scores do not need the endpoint's
            rows = study.judge_rows("offline")
        return study.open_rows(), ""
    except CraneError as error:  # for example no judge; sections that do not need the scores go on without them
        return rows, str(error)


def available_results(study: Study) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Judge scores of open-ended answers, the answers, and the reason why any are missing; empty if none is."""
    rows, reason = available_rows(study)
    items = study.open_items() if not reason else pd.DataFrame(columns=["language", "question"])
    return rows, items, reason


def open_langspec_table(langspec: pd.DataFrame, rows: pd.DataFrame, *, form: str) -> pd.DataFrame:
    """LangSpec-F (`open_langspec`) of every set, per language and on average, with its parts and interval.

    The result rows give the share of units that each method masks.
    """
    keys = ["selected_on", "method", "budget"]
    part = pick(langspec, form=form)
    mean = pick(part, masked_language=MEAN)
    each = part.pivot_table(index=keys, columns="masked_language", values="langspec").reset_index()
    share = rows[rows["masked_language"] != ""].groupby(keys)["masked_share"].mean().reset_index()
    parts, statistics = ["precision", "recall"], ["low", "high", "draws", "p_value", "p_holm"]
    table = mean[[*keys, *parts, *statistics]].merge(each, on=keys).merge(share, on=keys)
    languages = ordered_languages(rows["evaluation_language"])
    return in_study_order(table[[*keys, "masked_share", *parts, *languages, MEAN, *statistics]], keys)


def parts_table(items: pd.DataFrame, sets: Sequence[tuple[str, str]], *, selected_on: str = "base") -> pd.DataFrame:
    """Parts of one judge's scores: means over questions, unmasked and under the masks of some methods and budgets.

    finished is the share of the answers that ended, missing the number of answers without a score.
    """
    keys = ["method", "budget", "masked_language", "evaluation_language"]
    wanted = {("none", ""), *sets}
    chosen = [pair in wanted for pair in zip(items["method"], items["budget"], strict=True)]
    found = items[chosen].rename(columns={"language": "evaluation_language"})
    found = found[found["selected_on"].isin(["", selected_on])].assign(missing=found["score"].isna())
    parts = [name for name in ("facts", "language_kept", "fluency") if found[name].notna().any()]
    means = found.groupby(keys, sort=False)[["score", *parts, "tokens", "finished"]].mean()
    return in_study_order(means.assign(missing=found.groupby(keys)["missing"].sum()).reset_index(), keys)


def _short(text: str) -> str:
    text = " ".join(text.split()) or "(nothing)"
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"


def example_answers(
    items: pd.DataFrame, *, method: str, budget: str, selected_on: str = "base", count: int = 4
) -> pd.DataFrame:
    """Answers (judged by one judge) of the unmasked model and under the mask of each language.

    The questions are the first that the unmasked model answers well in every language, so that the effect of a mask can
    be seen, and then the first others; they are not chosen by the effect.
    """
    unmasked = pick(items, method="none")
    lowest = unmasked.groupby("question")["score"].min()
    good = [number for number, score in lowest.items() if score >= _GOOD]
    numbers = [*good, *(number for number in lowest.index if number not in good)][:count]
    masked = pick(items, method=method, budget=budget, selected_on=selected_on)
    masked = masked[masked["random_seed"] <= 0]
    languages = ordered_languages(unmasked["language"])
    records = []
    for number in numbers:
        for language in languages:
            (own,) = pick(unmasked, question=number, language=language).itertuples()
            record = {"language": language, "question": own.text, "unmasked": _short(own.answer)}
            for code in languages:
                under = pick(masked, question=number, language=language, masked_language=code)["answer"]
                record[f"{language_name(code)} masked"] = _short(under.iloc[0]) if len(under) else ""
            records.append(record)
    return pd.DataFrame(records)
