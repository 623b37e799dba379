"""The same rules on the paper's published numbers, so that a verdict on this study can be read beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from crane_lib.files import read_frame
from crane_lib.metrics import langspec
from crane_lib.output.claims import judge, load_rules

PUBLISHED = Path(__file__).resolve().parents[2] / "expected" / "published.csv"
_LANGUAGE_OF_TASK = {"MMLU": "en", "C-Eval": "zh", "Belebele-vi": "vi"}
_METHODS = {"none": "none", "CRANE": "kurtosis", "LAPE": "lape", "random (layer-matched)": "random_like_kurtosis"}
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


def judge_published(path: Path = PUBLISHED) -> list[dict[str, Any]]:
    """Verdicts of the claims' rules on the published numbers of the released rule, by accuracy."""
    rows = published_rows(path)
    rules = {**load_rules(), "methods": {"kurtosis": "published"}, "measures": [_MEASURE]}
    return judge(rows=rows, langspec=published_langspec(rows), overlaps=None, budget=0.1, rules=rules)
