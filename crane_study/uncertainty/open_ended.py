"""From judged answers to result rows, changes and LangSpec-F, each with a paired bootstrap over questions.

Masked and unmasked answers to the same questions are compared, and the questions are resampled for both together.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.specificity import Form, langspec_parts, langspec_roles, langspec_values
from crane_study.measure.rows import COLUMNS, MASK, SET
from crane_study.uncertainty.bootstrap import (
    RESAMPLES,
    Resampled,
    interval,
    number_masks,
    resample_ratios,
    values_by_mask,
)
from crane_study.uncertainty.intervals import set_changes
from crane_study.uncertainty.permutation import p_value_table

TASK = "open_ended"
METRIC = "judge_score"
# The authors report beta 4 in their own form of F-beta for open-ended generation.
FORMS: dict[str, tuple[float, Form]] = {"f1": (1.0, "standard"), "released": (4.0, "released")}
MEAN = "mean"  # in place of a language


def score_rows(items: pd.DataFrame, *, main: str) -> pd.DataFrame:
    """Tidy result rows: the mean score per mask, language and judge; n counts the answers that have a score.

    The metric has a plain name for the study's main judge, and those of other judges at its end.
    """
    found = items.groupby([*MASK, "language", "judge"], sort=False)["score"].agg(value="mean", n="count").reset_index()
    metrics = [METRIC if judge == main else f"{METRIC}_{judge}" for judge in found["judge"]]
    found = found.assign(task=TASK, metric=metrics)
    return found.rename(columns={"language": "evaluation_language"})[list(COLUMNS)]


def _resample(items: pd.DataFrame, *, resamples: int, random_seed: int) -> tuple[Resampled, np.ndarray]:
    """Mean scores of M masks in K languages, and the number of questions behind each (M, K).

    For each mask these are the questions for which both its answer and the unmasked model's have a score. So the
    unmasked scores have an axis of masks, too, (M, K) and (B, M, K); NaN where there is no such question.
    """
    judges = sorted(set(items["judge"]))
    if len(judges) != 1:
        raise CraneError(f"bootstrap: expected the scores of one judge, saw {judges}")
    masks, numbered = number_masks(items)
    languages = tuple(dict.fromkeys(items["language"]))
    counts, measured, draws = [], [], []
    for language in languages:
        part = numbered[numbered["language"] == language]
        table = values_by_mask(part, masks=len(masks), item="question", value="score", language=language)
        values = table.dropna(axis=1, how="all").to_numpy(float)  # questions without any score do not count
        both = np.isfinite(values[1:]) & np.isfinite(values[0])  # (M, questions)
        scored = np.concatenate([np.where(both, values[0], 0.0), np.where(both, values[1:], 0.0)])
        known = np.tile(both, (2, 1)).astype(float)
        # Questions with the same number are translations of one another: the same random seed draws them together.
        generator = np.random.default_rng([random_seed, 31])
        drawn = resample_ratios(scored, known, resamples=resamples, generator=generator)
        with np.errstate(invalid="ignore", divide="ignore"):
            measured.append((scored.sum(1) / known.sum(1)).reshape(2, -1))
        draws.append(drawn.reshape(resamples, 2, -1))
        counts.append(both.sum(1))
    (before, after), every = np.stack(measured, axis=-1), np.stack(draws, axis=-1)
    masks = masks.iloc[1:].reset_index(drop=True)
    found = Resampled(METRIC, languages, masks, before, after, every[:, 0], every[:, 1])
    return found, np.stack(counts, axis=-1)


def score_changes(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> pd.DataFrame:
    """Change of the score under the masks of each method, on the same questions (n); mean over random draws.

    The answers are of one model, judged by one judge; the interval is a bootstrap over questions.
    """
    found, asked = _resample(items, resamples=resamples, random_seed=random_seed)
    groups = found.masks.groupby([*SET, "masked_language"], sort=False).indices.values()
    return set_changes(found).assign(n=np.concatenate([asked[rows].min(axis=0) for rows in groups]))


def open_langspec(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> pd.DataFrame:
    """LangSpec-F of the judge's scores: F1, and the paper's released form with beta 4; mean over random draws.

    masked_language is ``mean`` for the mean over languages. Only the means have p-values, against random sets of the
    same kind and budget, where there are some. Precision and recall are those of both forms.
    """
    found, _asked = _resample(items, resamples=resamples, random_seed=random_seed)
    targets = np.array([found.languages.index(language) for language in found.masks["masked_language"]])
    records, tests = [], []
    for form, (beta, choice) in FORMS.items():
        roles = langspec_roles(found.unmasked, found.measured, beta=beta, form=choice)
        p = p_value_table(found.masks, roles, languages=found.languages).drop(columns="control")
        tests.append(p.assign(form=form, masked_language=MEAN))
        precision, recall, measured = langspec_parts(found.unmasked, found.measured, targets, beta=beta, form=choice)
        precision, recall = (np.where(np.isnan(measured), np.nan, part) for part in (precision, recall))
        draws = langspec_values(found.unmasked_draws, found.draws, targets, beta=beta, form=choice)
        for labels, rows in found.masks.groupby(SET, sort=False).indices.items():
            masked = found.masks["masked_language"].to_numpy()[rows]
            for language in [*dict.fromkeys(masked), MEAN]:
                chosen = rows if language == MEAN else rows[masked == language]
                low, high = interval(draws[:, chosen].mean(1))
                count = len(chosen) // (len(set(masked)) if language == MEAN else 1)
                values = (float(part[chosen].mean()) for part in (precision, recall, measured))
                records.append((form, *labels, language, *values, float(low), float(high), count))
    columns = ["form", *SET, "masked_language", "precision", "recall", "langspec", "low", "high", "draws"]
    table = pd.DataFrame(records, columns=columns)
    return table.merge(pd.concat(tests), on=["form", *SET, "masked_language"], how="left")


def langspec_f1_rows(langspec: pd.DataFrame) -> pd.DataFrame:
    """LangSpec-F1 of `open_langspec` as LangSpec rows, one per mask, to show with those of other measures."""
    part = langspec[(langspec["form"] == "f1") & (langspec["masked_language"] != MEAN)]
    renamed = part.rename(columns={"langspec": "langspec_f1"})
    return renamed[[*SET, "masked_language", "precision", "recall", "langspec_f1"]].assign(metric=METRIC)


def langspec_f1_intervals(langspec: pd.DataFrame) -> pd.DataFrame:
    """Intervals of the mean LangSpec-F1 of `open_langspec`: the columns of `SET`, metric, mean_low and mean_high."""
    part = langspec[(langspec["form"] == "f1") & (langspec["masked_language"] == MEAN)]
    renamed = part.rename(columns={"low": "mean_low", "high": "mean_high"})
    return renamed[[*SET, "mean_low", "mean_high"]].assign(metric=METRIC)
