"""Tables of selectivity at matched damage: doses, rises of the other languages, and differences between methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.methods import METHODS
from crane_study.labels import ordered_languages
from crane_study.measure.rows import EVERYTHING, pick, tidy
from crane_study.tables import in_study_order
from crane_study.uncertainty.bootstrap import Resampled
from crane_study.uncertainty.matched_damage import (
    DAMAGES,
    Matched,
    Response,
    limits,
    match,
    mean_over,
    responses,
    share_reached,
)

# Methods of the registry that select by AttnLRP relevance; all others are their rivals.
RELEVANCE = ("contrast", "contrast_mean", "contrast_abs", "relevance", "relevance_abs", "kurtosis")
RANDOM = "random_global"
ALL = "all"  # in the place of a language: the mean over all of them
_KEYS = ["method", "masked_language", "damage"]


def dose_responses(found: Resampled, killed: pd.DataFrame) -> list[Response]:
    """Dose-response of every method and of random masks, per language; `killed` are the rows of masks.csv."""
    return responses(found, tidy(killed), [*METHODS, RANDOM])


def damage_table(found: Sequence[Response]) -> pd.DataFrame:
    """One row per method, language and damage: dose, and the rises of the worst and of the mean other language.

    reached is the share of resamples that reach the damage; intervals are over those.
    """
    parts = [_rows(match(one), method=one.method, language=one.language) for one in found]
    return in_study_order(pd.concat(parts, ignore_index=True), _KEYS)


def damage_summary(found: Sequence[Response]) -> pd.DataFrame:
    """One row per method and damage: means over languages, missing where a language does not reach the damage."""
    parts = []
    for method in dict.fromkeys(one.method for one in found):
        each = [match(one) for one in found if one.method == method]
        reached = np.isfinite([one.worst for one in each]).sum(axis=0)
        rows = _rows(mean_over(each), method=method, language=ALL).assign(languages=reached)
        parts.append(rows.drop(columns=["masked_language", "worst_other"]))
    return in_study_order(pd.concat(parts, ignore_index=True), ["damage", "method"])


def _rows(found: Matched, *, method: str, language: str) -> pd.DataFrame:
    (low, high), (mean_low, mean_high) = limits(found.worst_draws, found.worst), limits(found.mean_draws, found.mean)
    dose_low, dose_high = limits(found.dose_draws, found.dose)
    values: dict[str, Any] = {"dose": found.dose, "dose_low": dose_low, "dose_high": dose_high, "killed": found.killed}
    values |= {"worst_other": found.worst_language, "worst": found.worst, "worst_low": low, "worst_high": high}
    values |= {"mean_other": found.mean, "mean_other_low": mean_low, "mean_other_high": mean_high}
    values |= {"reached": share_reached(found.worst_draws)}
    return pd.DataFrame({"method": method, "masked_language": language, "damage": DAMAGES, **values})


def damage_differences(found: Sequence[Response]) -> pd.DataFrame:
    """Rise of the worst other language under each rival minus that under the best relevance rule, document by document.

    The best relevance rule of a damage (best_rule) has the lowest mean over languages. One row per rival, language
    (all: mean over them) and damage; a difference above 0 says that the rule is more selective.
    """
    matched = {(one.method, one.language): match(one) for one in found}
    methods = list(dict.fromkeys(one.method for one in found))
    languages = ordered_languages(one.language for one in found)
    for method in methods:
        matched[method, ALL] = mean_over([matched[method, language] for language in languages])
    records = []
    for place, damage in enumerate(DAMAGES):
        means = {name: matched[name, ALL].worst[place] for name in methods if name in RELEVANCE}
        reached = {name: value for name, value in means.items() if np.isfinite(value)}
        if not reached:
            continue
        rule = min(reached, key=lambda name: reached[name])
        for rival in (name for name in methods if name not in RELEVANCE):
            for language in [*languages, ALL]:
                own, other = matched[rule, language], matched[rival, language]
                difference = other.worst[place] - own.worst[place]
                low, high = limits(other.worst_draws[:, place] - own.worst_draws[:, place], difference)
                verdict = _more_selective(float(low), float(high))
                records.append((damage, rule, rival, language, difference, float(low), float(high), verdict))
    columns = ["damage", "best_rule", "method", "masked_language", "difference", "low", "high", "more_selective"]
    return in_study_order(pd.DataFrame(records, columns=columns), ["damage", "method", "masked_language"])


def _more_selective(low: float, high: float) -> str:
    if np.isnan(low):
        return "not reached"
    return "rule" if low > 0 else "rival" if high < 0 else "undecided"


def everything_off(found: Resampled) -> pd.DataFrame:
    """Rise of the masked language (damage) and of the worst other one with every neuron silenced, per language."""
    rise = found.measured - found.unmasked
    records = []
    for row in pick(found.masks, method=EVERYTHING).itertuples():
        own = found.languages.index(row.masked_language)
        records.append((row.masked_language, rise[row.Index, own], np.delete(rise[row.Index], own).max()))
    return pd.DataFrame(records, columns=["masked_language", "damage", "worst"])
