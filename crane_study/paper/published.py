"""The same rules on the paper's published numbers, so that a verdict on this study can be read beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from crane_lib.specificity import langspec
from crane_study import ROOT
from crane_study.frames import read_frame
from crane_study.paper.claims import judge, load_rules

PUBLISHED = ROOT / "expected" / "published.csv"
_LANGUAGE_OF_TASK = {"MMLU": "en", "C-Eval": "zh", "Belebele-vi": "vi"}
TASK_OF_LANGUAGE = {language: task for task, language in _LANGUAGE_OF_TASK.items()}
_OPEN_ENDED = "open-ended-"
_OVERLAP = "overlap with "
_METHODS = {"none": "none", "CRANE": "kurtosis", "LAPE": "lape", "random (layer-matched)": "random_like_kurtosis"}
_TOP_PERCENT = "CRANE top 1%"
_TOP_BUDGET = "0.01"
_MODELS = {"Llama-2-7b-hf": "base", "Llama-2-7b-chat-hf": "chat"}
_MEASURE = "accuracy"


def published_rows(path: Path = PUBLISHED) -> pd.DataFrame:
    """The published benchmark accuracies as tidy result rows; each language is evaluated by its own benchmark."""
    frame = read_frame(path)
    frame = frame[frame["task"].isin(_LANGUAGE_OF_TASK) & frame["method"].isin(_METHODS)]
    masked = frame["masked_language"] != ""
    return pd.DataFrame(
        {
            "profile": "published",
            "model": frame["model"].map(_MODELS),
            "selected_on": frame["selected_on"],
            "method": frame["method"].map(_METHODS),
            "budget": masked.map({True: "published", False: ""}),
            "masked_language": frame["masked_language"],
            "evaluation_language": frame["task"].map(_LANGUAGE_OF_TASK),
            "task": "nlu",
            "metric": _MEASURE,
            "value": frame["value"].astype(float),
            "random_seed": frame["method"].str.startswith("random").map({True: 0, False: -1}),
        }
    ).reset_index(drop=True)


def published_langspec(rows: pd.DataFrame) -> pd.DataFrame:
    """LangSpec rows of the published accuracies."""
    records = []
    keys = ["profile", "model", "selected_on", "method", "budget", "masked_language", "task", "metric", "random_seed"]
    for labels, part in rows[rows["masked_language"] != ""].groupby(keys, sort=False):
        named = dict(zip(keys, labels, strict=True))
        unmasked = rows[(rows["masked_language"] == "") & (rows["model"] == named["model"])]
        before, after = (f.set_index("evaluation_language")["value"].to_dict() for f in (unmasked, part))
        score = langspec(before, after, target=named["masked_language"])
        records.append({**named, "precision": score.precision, "recall": score.recall, "langspec_f1": score.f})
    return pd.DataFrame(records)


def published_scores(path: Path = PUBLISHED) -> pd.DataFrame:
    """The published judge scores of open-ended answers (chat model) as tidy result rows."""
    frame = read_frame(path)
    frame = frame[frame["task"].str.startswith(_OPEN_ENDED)]
    top = frame["method"] == _TOP_PERCENT
    masked = frame["masked_language"] != ""
    return pd.DataFrame(
        {
            "model": frame["model"].map(_MODELS),
            "selected_on": frame["selected_on"],
            "method": frame["method"].where(~top, "CRANE").map(_METHODS),
            "budget": masked.map({True: "published", False: ""}).where(~top, _TOP_BUDGET),
            "masked_language": frame["masked_language"],
            "evaluation_language": frame["task"].str.removeprefix(_OPEN_ENDED),
            "value": frame["value"].astype(float),
        }
    ).reset_index(drop=True)


def published_overlaps(path: Path = PUBLISHED) -> pd.DataFrame:
    """The published overlaps of the released rule's sets.

    Returns
    -------
    frame with language_a, language_b (``random``: a random set) and share_of_a
    """
    frame = read_frame(path)
    frame = frame[frame["task"].str.startswith(_OVERLAP)]
    return pd.DataFrame(
        {
            "language_a": frame["masked_language"],
            "language_b": frame["task"].str.removeprefix(_OVERLAP),
            "share_of_a": frame["value"].astype(float),
        }
    ).reset_index(drop=True)


def recomputed_langspec(path: Path = PUBLISHED) -> pd.DataFrame:
    """LangSpec-F computed from the published scores, beside the published or stated values.

    Benchmarks: F1, mean of the other drops. Open-ended answers: the released form of F with beta 4, mean of the others.

    Returns
    -------
    frame with place, model, method (the paper's name), masked_language, stated, recomputed, difference
    """
    stated = read_frame(path)
    stated = stated[stated["metric"].str.startswith("langspec_f")]
    of_accuracy = published_langspec(published_rows(path)).set_index(["model", "method", "masked_language"])
    scores = published_scores(path)
    records = []
    for row in stated.itertuples():
        model, language, open_ended = _MODELS[row.model], row.masked_language, row.metric != "langspec_f1"
        if open_ended:
            top = row.method == _TOP_PERCENT
            method = _METHODS["CRANE" if top else row.method]
            masks = scores[(scores["method"] == method) & (scores["masked_language"] == language)]
            masks = masks[masks["budget"] == (_TOP_BUDGET if top else "published")]
            unmasked = scores[scores["masked_language"] == ""]
            before, after = (f.set_index("evaluation_language")["value"].to_dict() for f in (unmasked, masks))
            found = langspec(before, after, target=language, beta=4.0, form="released").f
        else:
            found = float(of_accuracy.loc[(model, _METHODS[row.method], language), "langspec_f1"])
        name = "open-ended generation" if open_ended else "benchmarks"
        records.append((name, model, row.method, language, float(row.value), found, found - float(row.value)))
    columns = ["place", "model", "paper_method", "masked_language", "stated", "recomputed", "difference"]
    return pd.DataFrame(records, columns=columns)


def judge_published(path: Path = PUBLISHED) -> list[dict[str, Any]]:
    """Verdicts of the claims' rules on the published numbers of the released rule, by accuracy."""
    rows = published_rows(path)
    rules = {**load_rules(), "methods": {"kurtosis": "published"}, "measures": [_MEASURE]}
    return judge(rows=rows, langspec=published_langspec(rows), overlaps=None, budget=0.1, rules=rules)
