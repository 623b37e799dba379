"""How sure the effects of masks are: a paired bootstrap over documents or questions, and Holm's correction.

Masked and unmasked scores are computed on the same resampled items, so what makes an item hard for both cancels.  The
languages' items are resampled apart from each other, for they are different texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.evaluation.rows import MASK, SET

DocumentMeasure = Literal["token_probability", "nll"]
RESAMPLES = 2000
LEVEL = 0.95
_CHUNK_VALUES = 1 << 24  # counts of resampled items that exist at once


@dataclass(frozen=True)
class Resampled:
    """Scores of the masks of one model, as measured and under resampling.

    Attributes
    ----------
    metric : what the scores are
    languages : evaluation languages, the last axis (K)
    masks : the columns of `MASK`, one row a mask (M)
    unmasked, measured : (K,) and (M, K) as measured
    unmasked_draws, draws : (B, K) and (B, M, K) under resampling
    """

    metric: str
    languages: tuple[str, ...]
    masks: pd.DataFrame
    unmasked: np.ndarray
    measured: np.ndarray
    unmasked_draws: np.ndarray
    draws: np.ndarray


@dataclass(frozen=True)
class _Arranged:
    """Values (masks + 1, items) a language and kind of value; the first row is the unmasked model."""

    model: str
    languages: tuple[str, ...]
    masks: pd.DataFrame
    arrays: list[list[np.ndarray]]


def resample_counts(items: int, resamples: int, *, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each item is drawn in each resample, in blocks (b, items) that fit into memory."""
    block = max(1, _CHUNK_VALUES // items)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield generator.multinomial(items, np.full(items, 1.0 / items), size=size).astype(np.float64)


def generator_for(random_seed: int, language: int) -> np.random.Generator:
    """The generator that resamples a language's items; `language` is its place in sorted order."""
    return np.random.default_rng([random_seed, 7919, language])


def _arranged(frame: pd.DataFrame, *, language: str, item: str, values: Sequence[str]) -> _Arranged:
    """Values as arrays (masks, items) a language, the unmasked model first.

    Raises
    ------
    CraneError : several models, no unmasked values, or a mask that was not evaluated on the same items
    """
    models = sorted(set(frame["model"]))
    if len(models) != 1:
        raise CraneError(f"bootstrap: expected the items of one model, saw {models}")
    frame = frame.assign(masked_language=frame["masked_language"].fillna(""), budget=frame["budget"].astype(str))
    masks = frame[MASK].drop_duplicates().reset_index(drop=True)
    bare = masks["method"] == "none"
    if bare.sum() != 1:
        raise CraneError(f"bootstrap: expected the unmasked model once, saw it {int(bare.sum())} times")
    masks = pd.concat([masks[bare], masks[~bare]], ignore_index=True)
    numbered = frame.merge(masks.assign(_mask=range(len(masks))), on=MASK, how="left", validate="many_to_one")
    languages = tuple(sorted(set(frame[language])))
    arrays = []
    for code in languages:
        part = numbered[numbered[language] == code]
        if part.duplicated(["_mask", item]).any():
            raise CraneError(f"bootstrap: a mask has an item of {code!r} twice; evaluate anew")
        wide = part.pivot_table(index="_mask", columns=item, values=list(values), aggfunc="sum")
        tables = [wide[name].reindex(range(len(masks))) for name in values]
        if any(table.isna().to_numpy().any() for table in tables):
            raise CraneError(f"bootstrap: not every mask was evaluated on the same items of {code!r}; evaluate anew")
        arrays.append([table.to_numpy(dtype=float) for table in tables])
    return _Arranged(models[0], languages, masks.iloc[1:].reset_index(drop=True), arrays)


def _scores(kind: str, counts: np.ndarray, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Scores (b, masks + 1) with each item counted as often as `counts` (b, items) says."""
    if kind == "accuracy":
        return counts @ arrays[0].T / counts.sum(axis=1, keepdims=True)
    nll, tokens = arrays
    mean = (counts @ nll.T) / (counts @ tokens[0])[:, None]  # weighted by tokens, as perplexity is
    return mean if kind == "nll" else np.exp(-mean)


def _resample(found: _Arranged, *, metric: str, resamples: int, random_seed: int) -> Resampled:
    point, draws = [], []
    for number, arrays in enumerate(found.arrays):
        point.append(_scores(metric, np.ones((1, arrays[0].shape[1])), arrays)[0])
        generator = generator_for(random_seed, number)
        blocks = resample_counts(arrays[0].shape[1], resamples, generator=generator)
        draws.append(np.concatenate([_scores(metric, counts, arrays) for counts in blocks]))
    values, drawn = np.stack(point, axis=-1), np.stack(draws, axis=-1)  # (masks + 1, K), (B, masks + 1, K)
    return Resampled(metric, found.languages, found.masks, values[0], values[1:], drawn[:, 0], drawn[:, 1:])


def resample_documents(
    documents: pd.DataFrame,
    *,
    metric: DocumentMeasure = "token_probability",
    resamples: int = RESAMPLES,
    random_seed: int = 0,
) -> Resampled:
    """Bootstrap over documents, weighted by tokens.

    Parameters
    ----------
    documents : rows of ``documents.parquet`` of one model

    Raises
    ------
    CraneError : the frame has several models, no unmasked one, or masks on different documents
    """
    found = _arranged(documents, language="evaluation_language", item="document", values=["nll", "tokens"])
    return _resample(found, metric=metric, resamples=resamples, random_seed=random_seed)


def resample_items(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> Resampled:
    """Bootstrap over questions; `items` are rows of ``items.parquet`` of one model.

    Raises
    ------
    CraneError : as `resample_documents`
    """
    found = _arranged(items, language="language", item="item", values=["correct"])
    return _resample(found, metric="accuracy", resamples=resamples, random_seed=random_seed)


def langspec_values(unmasked: np.ndarray, masked: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """LangSpec-F1 of many masks at once, as `crane_lib.metrics.langspec` has it (mean of the others, F1).

    Parameters
    ----------
    unmasked, masked : (..., 1 or M, K) scores
    targets : (M,) place of each mask's language on the last axis

    Returns
    -------
    (..., M)
    """
    drops = np.maximum(0.0, unmasked - masked)
    places = np.broadcast_to(targets[:, None], (*drops.shape[:-1], 1))
    hit = np.take_along_axis(drops, places, axis=-1)[..., 0]
    whole = np.take_along_axis(np.broadcast_to(unmasked, drops.shape), places, axis=-1)[..., 0]
    others = (drops.sum(axis=-1) - hit) / (drops.shape[-1] - 1)
    precision = np.divide(hit, hit + others, out=np.zeros_like(hit), where=hit > 0)
    recall = np.divide(hit, whole, out=np.zeros_like(hit), where=whole > 0)
    both = precision + recall
    return np.divide(2 * precision * recall, both, out=np.zeros_like(hit), where=both > 0)


def langspec_draws(found: Resampled) -> tuple[np.ndarray, np.ndarray]:
    """LangSpec-F1 of every mask as measured (M,) and under resampling (B, M)."""
    targets = np.array([found.languages.index(code) for code in found.masks["masked_language"]])
    return (
        langspec_values(found.unmasked[None], found.measured, targets),
        langspec_values(found.unmasked_draws[:, None], found.draws, targets),
    )


def interval(draws: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def drop_intervals(found: Resampled, *, level: float = LEVEL) -> pd.DataFrame:
    """What every mask changes in every language, with its interval.

    Returns
    -------
    frame with the columns of `MASK`, evaluation_language, metric, change (masked - unmasked), low and high
    """
    change = found.measured - found.unmasked
    low, high = interval(found.draws - found.unmasked_draws[:, None], level=level)
    parts = [
        found.masks.assign(
            evaluation_language=code,
            metric=found.metric,
            change=change[:, number],
            low=low[:, number],
            high=high[:, number],
        )
        for number, code in enumerate(found.languages)
    ]
    return pd.concat(parts, ignore_index=True)


def langspec_intervals(found: Resampled, *, level: float = LEVEL) -> pd.DataFrame:
    """LangSpec-F1 of every mask with its interval: the columns of `MASK`, metric, langspec_f1, low and high."""
    values, draws = langspec_draws(found)
    low, high = interval(draws, level=level)
    return found.masks.assign(metric=found.metric, langspec_f1=values, low=low, high=high)


def method_means(found: Resampled) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Mean over languages of LangSpec-F1 a method and budget; over the draws, too, for random masks.

    Returns
    -------
    the columns of `SET` (N rows), means as measured (N,) and under resampling (B, N)
    """
    values, draws = langspec_draws(found)
    groups = found.masks.groupby(SET, sort=False).indices
    sets = pd.DataFrame(list(groups), columns=SET)
    places = list(groups.values())
    return (
        sets,
        np.array([values[place].mean() for place in places]),
        np.stack([draws[:, place].mean(axis=1) for place in places], axis=1),
    )


def difference_intervals(
    found: Resampled, *, of: tuple[str, str], selected_on: str = "base", level: float = LEVEL
) -> pd.DataFrame:
    """How far the mean LangSpec-F1 of one method lies above that of each other one, on the same resamples.

    Parameters
    ----------
    of : method and budget
    selected_on : the model that the method's sets were selected on

    Returns
    -------
    the columns of `SET` of the others, metric, difference, low and high

    Raises
    ------
    CraneError : there is no such method
    """
    sets, means, draws = method_means(found)
    own = (sets["method"] == of[0]) & (sets["budget"] == of[1]) & (sets["selected_on"] == selected_on)
    if own.sum() != 1:
        raise CraneError(f"bootstrap: no masks of {of[0]} at {of[1]} selected on {selected_on!r}")
    place = int(np.flatnonzero(own)[0])
    low, high = interval(draws[:, [place]] - draws, level=level)
    table = sets.assign(metric=found.metric, difference=means[place] - means, low=low, high=high)
    return table[~own].reset_index(drop=True)


def random_p_value(own: float, random: Sequence[float] | np.ndarray) -> float:
    """(1 + number of random masks that score at least as high) / (1 + number of random masks); NaN without any."""
    scores = np.asarray(random, dtype=float)
    return (1 + int((scores >= own).sum())) / (1 + scores.size) if scores.size else float("nan")


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction over the tests of one table (Holm 1979); NaN are no tests and stay NaN."""
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(p.shape, np.nan)
    tests = np.flatnonzero(np.isfinite(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected
