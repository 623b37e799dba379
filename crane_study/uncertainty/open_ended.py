"""From judged answers to result rows, changes and LangSpec-F, each with a paired bootstrap over questions.

Masked and unmasked answers to the same questions are compared, and the questions are drawn anew for both together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.specificity import Form, langspec_roles, langspec_values
from crane_study.measure.rows import COLUMNS, MASK, SET
from crane_study.uncertainty.bootstrap import RESAMPLES, interval, number_masks, resample_ratios, values_by_mask
from crane_study.uncertainty.permutation import p_value_table

TASK = "open_ended"
METRIC = "judge_score"
# Beta 4 in the authors' form of F-beta is what they report for open-ended generation.
FORMS: dict[str, tuple[float, Form]] = {"f1": (1.0, "standard"), "released": (4.0, "released")}
MEAN = "mean"


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
class _Paired:
    """Mean scores under M masks and without them, in K languages, on the same questions.

    Those are for each mask the questions of which its answer and the unmasked model's have a score: ``counts`` (M, K).
    ``unmasked`` and ``measured`` (M, K), and under resampling ``unmasked_draws`` and ``draws`` (B, M, K); NaN where
    there is no such question.
    """

    languages: list[str]
    masks: pd.DataFrame
    counts: np.ndarray
    unmasked: np.ndarray
    measured: np.ndarray
    unmasked_draws: np.ndarray
    draws: np.ndarray


def _resample(items: pd.DataFrame, *, resamples: int, random_seed: int) -> _Paired:
    judges = sorted(set(items["judge"]))
    if len(judges) != 1:
        raise CraneError(f"bootstrap: expected the scores of one judge, saw {judges}")
    masks, numbered = number_masks(items)
    languages = list(dict.fromkeys(items["language"]))
    counts, point, draws = [], [], []
    for language in languages:
        part = numbered[numbered["language"] == language]
        table = values_by_mask(part, masks=len(masks), item="question", value="score", language=language)
        values = table.dropna(axis=1, how="all").to_numpy(float)  # a question without any score is none
        both = np.isfinite(values[1:]) & np.isfinite(values[0])  # (M, questions)
        scored = np.concatenate([np.where(both, values[0], 0.0), np.where(both, values[1:], 0.0)])
        # Questions of one number are translations of one another: with the same seed they are drawn together.
        generator = np.random.default_rng([random_seed, 31])
        known = np.tile(both, (2, 1)).astype(float)
        drawn = resample_ratios(scored, known, resamples=resamples, generator=generator)
        with np.errstate(invalid="ignore", divide="ignore"):
            point.append((scored.sum(1) / known.sum(1)).reshape(2, -1))
        draws.append(drawn.reshape(resamples, 2, -1))
        counts.append(both.sum(1))
    (unmasked, measured), every = np.stack(point, axis=-1), np.stack(draws, axis=-1)
    masks = masks.iloc[1:].reset_index(drop=True)
    return _Paired(languages, masks, np.stack(counts, axis=-1), unmasked, measured, every[:, 0], every[:, 1])


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
    keys = [*SET, "masked_language"]
    records = []
    for labels, rows in found.masks.groupby(keys, sort=False).indices.items():
        low, high = interval(found.draws[:, rows].mean(1) - found.unmasked_draws[:, rows].mean(1))
        for number, language in enumerate(found.languages):
            value = float(found.measured[rows, number].mean())
            unmasked = float(found.unmasked[rows, number].mean())
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


def open_langspec(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> pd.DataFrame:
    """LangSpec-F on the judge's scores: F1, and the paper's released form with beta 4; mean over random draws.

    Parameters
    ----------
    items : judged answers of one model by one judge

    Returns
    -------
    frame with form (``f1`` or ``released``), model, selected_on, method, budget, masked_language (``mean`` for the mean
    over languages), langspec, low and high (95 %, bootstrap over questions), draws, and for the means p_value and
    p_holm (against random sets of the same kind and budget, where there are some)
    """
    found = _resample(items, resamples=resamples, random_seed=random_seed)
    targets = np.array([found.languages.index(language) for language in found.masks["masked_language"]])
    records, tests = [], []
    for form, (beta, choice) in FORMS.items():
        roles = langspec_roles(found.unmasked, found.measured, beta=beta, form=choice)
        p = p_value_table(found.masks, roles, languages=found.languages).drop(columns="control")
        tests.append(p.assign(form=form, masked_language=MEAN))
        point = langspec_values(found.unmasked, found.measured, targets, beta=beta, form=choice)
        draws = langspec_values(found.unmasked_draws, found.draws, targets, beta=beta, form=choice)
        for labels, rows in found.masks.groupby(SET, sort=False).indices.items():
            spoken = found.masks["masked_language"].to_numpy()[rows]
            for language in [*dict.fromkeys(spoken), MEAN]:
                chosen = rows if language == MEAN else rows[spoken == language]
                low, high = interval(draws[:, chosen].mean(1))
                records.append(
                    {
                        "form": form,
                        **dict(zip(SET, labels, strict=True)),
                        "masked_language": language,
                        "langspec": float(point[chosen].mean()),
                        "low": float(low),
                        "high": float(high),
                        "draws": len(chosen) // (len(set(spoken)) if language == MEAN else 1),
                    }
                )
    return pd.DataFrame(records).merge(pd.concat(tests), on=["form", *SET, "masked_language"], how="left")


def langspec_f1_rows(langspec: pd.DataFrame) -> pd.DataFrame:
    """LangSpec-F1 of `open_langspec` as LangSpec rows, a row a language, to stand beside other measures."""
    part = langspec[(langspec["form"] == "f1") & (langspec["masked_language"] != MEAN)]
    renamed = part.rename(columns={"langspec": "langspec_f1"})
    return renamed[[*SET, "masked_language", "langspec_f1"]].assign(metric=METRIC)


def langspec_f1_intervals(langspec: pd.DataFrame) -> pd.DataFrame:
    """Intervals of the mean LangSpec-F1 of `open_langspec`: the columns of `SET`, metric, mean_low and mean_high."""
    part = langspec[(langspec["form"] == "f1") & (langspec["masked_language"] == MEAN)]
    renamed = part.rename(columns={"low": "mean_low", "high": "mean_high"})
    return renamed[[*SET, "mean_low", "mean_high"]].assign(metric=METRIC)
