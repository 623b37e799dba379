"""From judged answers to result rows, changes and LangSpec-F, each with a paired bootstrap over questions.

Masked and unmasked answers to the same questions are compared, and the questions are drawn anew for both together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from crane_lib.evaluation.rows import COLUMNS, MASK

TASK = "open_ended"
METRIC = "judge_score"
RESAMPLES = 2000
Form = Literal["standard", "released"]
# Beta 4 in the authors' form of F-beta is what they report for open-ended generation.
FORMS: dict[str, tuple[float, Form]] = {"f1": (1.0, "standard"), "released": (4.0, "released")}
MEAN = "mean"
_SET = ["model", "selected_on", "method", "budget"]
_LEVEL = 0.95


def metric_of(judge: str, *, main: str) -> str:
    """Metric that a judge's mean score is reported under: the study's main judge has the plain name."""
    return METRIC if judge == main else f"{METRIC}_{judge}"


def score_rows(items: pd.DataFrame, *, main: str) -> pd.DataFrame:
    """Tidy result rows: the mean score of every mask, language and judge; n counts the answers that have a score."""
    keys = [*MASK, "language", "judge"]
    found = items.groupby(keys, sort=False)["score"].agg(value="mean", n="count").reset_index()
    found["metric"] = [metric_of(judge, main=main) for judge in found["judge"]]
    return found.assign(task=TASK).rename(columns={"language": "evaluation_language"})[list(COLUMNS)]


@dataclass(frozen=True)
class _Resampled:
    """Mean scores of the masks of one model by one judge, the unmasked model first.

    ``scores`` (M + 1, K) as measured, ``draws`` (B, M + 1, K) under resampling, over K languages.
    """

    languages: list[str]
    masks: pd.DataFrame
    counts: np.ndarray
    scores: np.ndarray
    draws: np.ndarray


def _resample(items: pd.DataFrame, *, resamples: int, random_seed: int) -> _Resampled:
    languages = list(dict.fromkeys(items["language"]))
    masks = items[MASK].drop_duplicates()
    masks = masks.sort_values("method", key=lambda method: method != "none", kind="stable").reset_index(drop=True)
    numbered = items.merge(masks.assign(_mask=range(len(masks))), on=MASK, how="left", validate="many_to_one")
    point, draws, counts = [], [], []
    for language in languages:
        part = numbered[numbered["language"] == language]
        table = part.pivot_table(index="_mask", columns="question", values="score")
        values = table.reindex(range(len(masks))).to_numpy(float)
        # Questions of one number are translations of one another: with the same seed they are drawn together.
        generator = np.random.default_rng([random_seed, 31])
        questions = values.shape[1]
        drawn = generator.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
        known = np.isfinite(values)
        scored = np.where(known, values, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            point.append(scored.sum(1) / known.sum(1))
            draws.append((drawn @ scored.T) / (drawn @ known.T))
        counts.append(known.sum(1))
    return _Resampled(languages, masks, np.stack(counts, -1), np.stack(point, -1), np.stack(draws, -1))


def _interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.nanquantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    return low, high


def score_changes(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> pd.DataFrame:
    """What the masks of each method change, against the unmasked model on the same questions; mean over draws.

    Parameters
    ----------
    items : judged answers of one model by one judge

    Returns
    -------
    frame with model, selected_on, method, budget, masked_language, evaluation_language, unmasked, value, change, low
    and high (95 %, bootstrap over questions), n (questions) and draws
    """
    found = _resample(items, resamples=resamples, random_seed=random_seed)
    keys = [*_SET, "masked_language"]
    records = []
    for labels, places in found.masks[found.masks["method"] != "none"].groupby(keys, sort=False).indices.items():
        rows = found.masks.index[found.masks["method"] != "none"].to_numpy()[places]
        change = found.draws[:, rows].mean(1) - found.draws[:, 0]
        low, high = _interval(change)
        for number, language in enumerate(found.languages):
            value = float(found.scores[rows, number].mean())
            unmasked = float(found.scores[0, number])
            records.append(
                {
                    **dict(zip(keys, labels, strict=True)),
                    "evaluation_language": language,
                    "unmasked": unmasked,
                    "value": value,
                    "change": value - unmasked,
                    "low": low[number],
                    "high": high[number],
                    "n": int(found.counts[rows, number].min()),
                    "draws": len(rows),
                }
            )
    return pd.DataFrame(records)


def f_scores(unmasked: np.ndarray, masked: np.ndarray, target: int, *, beta: float, form: Form) -> np.ndarray:
    """LangSpec-F as `crane_lib.metrics.langspec` has it (mean of the others), over arrays (..., K)."""
    drops = np.maximum(0.0, unmasked - masked)
    hit = drops[..., target]
    others = (drops.sum(-1) - hit) / (drops.shape[-1] - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(hit > 0, hit / (hit + others), 0.0)
        recall = np.where(unmasked[..., target] > 0, hit / unmasked[..., target], 0.0)
        square = beta**2
        below = square * precision + recall if form == "standard" else precision + square * recall
        return np.where(below > 0, (1 + square) * precision * recall / below, 0.0)


def open_langspec(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> pd.DataFrame:
    """LangSpec-F on the judge's scores: F1, and the paper's released form with beta 4; mean over random draws.

    Parameters
    ----------
    items : judged answers of one model by one judge

    Returns
    -------
    frame with form (``f1`` or ``released``), model, selected_on, method, budget, masked_language (``mean`` for the mean
    over languages), langspec, low and high (95 %, bootstrap over questions) and draws
    """
    found = _resample(items, resamples=resamples, random_seed=random_seed)
    masks = found.masks[found.masks["method"] != "none"]
    targets = [found.languages.index(language) for language in masks["masked_language"]]
    records = []
    for form, (beta, choice) in FORMS.items():
        values = [
            (
                f_scores(found.scores[0], found.scores[place], target, beta=beta, form=choice),
                f_scores(found.draws[:, 0], found.draws[:, place], target, beta=beta, form=choice),
            )
            for place, target in zip(masks.index, targets, strict=True)
        ]
        point, draws = np.array([value for value, _draws in values]), np.array([under for _value, under in values])
        for labels, rows in masks.reset_index(drop=True).groupby(_SET, sort=False).indices.items():
            spoken = masks["masked_language"].to_numpy()[rows]
            for language in [*dict.fromkeys(spoken), MEAN]:
                chosen = rows if language == MEAN else rows[spoken == language]
                low, high = _interval(draws[chosen].mean(0))
                records.append(
                    {
                        "form": form,
                        **dict(zip(_SET, labels, strict=True)),
                        "masked_language": language,
                        "langspec": float(point[chosen].mean()),
                        "low": float(low),
                        "high": float(high),
                        "draws": len(chosen) // (len(set(spoken)) if language == MEAN else 1),
                    }
                )
    return pd.DataFrame(records)
