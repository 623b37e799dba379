"""p-values of a method's mean LangSpec-F1 against random masks: permutation tests over languages and draws.

The statistic is a mean over languages. If the set of a language is no better than a random one, it could equally have
been any of that language's draws, independently in every language. All ways to take one of the D + 1 sets in each of
K languages are then equally likely, and p is the share of them whose mean is at least as high as that of the own sets:
1 / (D + 1)^K at least, instead of 1 / (D + 1) for whole draws. The ways share the draws: their number makes the steps
of p finer, but adds no random masks.

The ways are counted exactly where that takes about a second: with up to 7 languages and some 20 draws. Beyond, p is
estimated from `SAMPLED` random ways by a fixed seed, the own sets counted as one of them: its standard error is
sqrt(p (1 - p) / SAMPLED), .0007 at p = .05 and .0016 at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from math import factorial, perm, prod

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from crane_lib.methods import selects_rows
from crane_study.measure.rows import SET

SHARED = ("random_global",)  # random sets that are one mask for all languages
SAMPLED = 100_000  # random ways where there are too many to count
_MOST_SUMS = 1 << 22  # of half of the languages, which exist at once
_MOST_SHARED = 7  # languages: partitions grow faster than any power
_AT_ONCE = 10_000  # random ways of a step
_ROUNDING = 1e-12  # sums of the same scores in another order are ties


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction over the tests of one table (Holm 1979); NaN are no tests and stay NaN."""
    p = np.array(p_values, dtype=float)
    tests = np.isfinite(p)
    if tests.any():
        p[tests] = multipletests(p[tests], method="holm")[1]
    return p


def _sums(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Sums of every way to take one value of each group."""
    return reduce(lambda found, values: np.add.outer(found, values).ravel(), groups, np.zeros(1))


def _count_at_least(groups: Sequence[np.ndarray], threshold: float) -> int:
    """Number of ways to take one value of each group whose sum is at least `threshold`, without forming all of them."""
    halves = _sums(groups[::2]), np.sort(_sums(groups[1::2]))
    below = np.searchsorted(halves[1], threshold - _ROUNDING - halves[0])
    return halves[0].size * halves[1].size - int(below.sum())


def _partitions(items: Sequence[int]) -> Iterator[list[list[int]]]:
    """Yield every partition of the items into blocks."""
    if not items:
        yield []
        return
    first, *rest = items
    for found in _partitions(rest):
        yield [[first], *found]
        for place, block in enumerate(found):
            yield [*found[:place], [first, *block], *found[place + 1 :]]


def random_p_value(own: Sequence[float] | np.ndarray, draws: Sequence[Sequence[float] | np.ndarray]) -> float:
    """p of the mean over languages where each language has its own random sets (see the module).

    `own` (K,) are the scores of each language's set. NaN where a language has no random sets or a score is missing.
    """
    scores = np.asarray(own, dtype=float)
    pools = [np.append(score, np.asarray(drawn, dtype=float)) for score, drawn in zip(scores, draws, strict=True)]
    if any(pool.size < 2 or np.isnan(pool).any() for pool in pools):
        return float("nan")
    threshold = float(scores.sum())
    if prod(pool.size for pool in pools[::2]) <= _MOST_SUMS:
        return _count_at_least(pools, threshold) / prod(pool.size for pool in pools)
    generator = np.random.default_rng(0)
    sums = np.sum([pool[generator.integers(pool.size, size=SAMPLED)] for pool in pools], axis=0)
    return _estimated(int((sums >= threshold - _ROUNDING).sum()))


def _estimated(count: int) -> float:
    """p from the number of random ways that reach the own sets' sum, which are themselves one of the ways."""
    return (1 + count) / (1 + SAMPLED)


def shared_p_value(own: np.ndarray, draws: np.ndarray) -> float:
    """p of the mean over languages where a random mask serves all of them; NaN if there is none or a score is missing.

    All ways to give K of the D + K masks to the languages are then equally likely. No way gives one mask to two
    languages, because their scores would not be independent; such ways are removed by inclusion and exclusion. Scores
    of own (K, K) and random masks (D, K) are those as the mask of each language (columns).
    """
    own, pool = np.asarray(own, dtype=float), np.concatenate([own, draws])
    languages = len(own)
    if len(pool) == languages or np.isnan(pool).any():
        return float("nan")
    threshold, count = float(np.trace(own)), 0
    if languages > _MOST_SHARED or len(pool) ** -(-languages // 2) > _MOST_SUMS:
        generator = np.random.default_rng(0)
        for _step in range(SAMPLED // _AT_ONCE):
            ways = generator.random((_AT_ONCE, len(pool))).argsort(axis=1)[:, :languages]
            sums = pool[ways, np.arange(languages)].sum(axis=1)
            count += int((sums >= threshold - _ROUNDING).sum())
        return _estimated(count)
    for blocks in _partitions(range(languages)):  # the languages of a block get the same mask
        sign = prod((-1) ** (len(block) - 1) * factorial(len(block) - 1) for block in blocks)
        count += sign * _count_at_least([pool[:, block].sum(axis=1) for block in blocks], threshold)
    return count / perm(len(pool), languages)


def p_value_against(own: pd.DataFrame, control: pd.DataFrame, scores: np.ndarray, *, languages: Sequence[str]) -> float:
    """p of a method's masks against random ones; NaN where there are none.

    `scores` (M, K) has LangSpec-F of every mask as the mask of each language; the index of the masks is their place in
    it.
    """
    codes = list(own["masked_language"])
    columns = [list(languages).index(code) for code in codes]
    method = "" if control.empty else str(control["method"].iloc[0])
    if method in SHARED:
        once = control.index[control["masked_language"] == codes[0]]
        return shared_p_value(scores[own.index][:, columns], scores[once][:, columns])
    places = [control.index[control["masked_language"] == code] for code in codes]
    draws = [scores[place, column] for place, column in zip(places, columns, strict=True)]
    return random_p_value(scores[own.index, columns], draws)


def control_of(method: str, budget: str, sets: set[tuple[str, str]]) -> str:
    """Name of the random masks for a method: those matched to it, else neurons of all layers, else empty."""
    kinds = [f"random_like_{method}"]
    if not selects_rows(method):
        kinds.append("random_global")
    return next((kind for kind in kinds if (kind, budget) in sets), "")


def p_value_table(masks: pd.DataFrame, scores: np.ndarray, *, languages: Sequence[str]) -> pd.DataFrame:
    """p of every method's mean LangSpec-F against random masks (control), with Holm's correction over the methods.

    Arguments are those of `p_value_against`; missing where no random masks of the same kind and budget were evaluated.
    """
    groups = {tuple(map(str, key)): part for key, part in masks.groupby(SET, sort=False)}
    records = []
    for (model, selected_on, method, budget), own in groups.items():
        if method.startswith("random"):
            continue
        control = control_of(method, budget, {(key[2], key[3]) for key in groups if key[:2] == (model, selected_on)})
        against = groups.get((model, selected_on, control, budget), masks.head(0))
        p = p_value_against(own, against, scores, languages=languages)
        records.append((model, selected_on, method, budget, control, p))
    table = pd.DataFrame(records, columns=[*SET, "control", "p_value"])
    return table.assign(p_holm=holm(table["p_value"]))
