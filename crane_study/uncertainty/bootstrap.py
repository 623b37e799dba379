"""Scores of masks under resampling: a paired bootstrap over documents, questions or open answers.

Masked and unmasked scores are computed on the same resampled items, so what makes an item hard for both cancels.  The
languages' items are resampled apart from each other, for they are different texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_study.measure.rows import MASK

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


def resample_counts(items: int, resamples: int, *, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each item is drawn in each resample, in blocks (b, items) that fit into memory."""
    if not items:
        yield np.zeros((resamples, 0))
        return
    block = max(1, _CHUNK_VALUES // items)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield generator.multinomial(items, np.full(items, 1.0 / items), size=size).astype(np.float64)


def generator_for(random_seed: int, language: int) -> np.random.Generator:
    """The generator that resamples a language's items; `language` is its place in sorted order."""
    return np.random.default_rng([random_seed, 7919, language])


def ratios(counts: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Sum over sum with each item counted as often as `counts` (b, items) says; NaN where there is nothing to share.

    Parameters
    ----------
    numerator, denominator : (masks, items); one row serves all masks

    Returns
    -------
    (b, masks)
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts @ numerator.T) / (counts @ denominator.T)


def resample_ratios(
    numerator: np.ndarray, denominator: np.ndarray, *, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """`ratios` under resampling of the items  (B, masks)"""
    blocks = resample_counts(numerator.shape[1], resamples, generator=generator)
    return np.concatenate([ratios(counts, numerator, denominator) for counts in blocks])


def interval(draws: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis; draws without a value (NaN) do not count."""
    quantile = np.nanquantile if np.isnan(draws).any() else np.quantile
    with warnings.catch_warnings():  # where no draw has a value the interval is NaN, which says enough
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        low, high = quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def number_masks(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The masks of one model, the unmasked model first, and the frame with the number of each row's mask (``_mask``).

    Raises
    ------
    CraneError : several models, or no unmasked values
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
    return masks, frame.merge(masks.assign(_mask=range(len(masks))), on=MASK, how="left", validate="many_to_one")


def values_by_mask(numbered: pd.DataFrame, *, masks: int, item: str, value: str, language: str) -> pd.DataFrame:
    """One language's values, a row a mask and a column an item; NaN where a mask has none.

    Raises
    ------
    CraneError : a mask has an item twice
    """
    if numbered.duplicated(["_mask", item]).any():
        raise CraneError(f"bootstrap: a mask has an item of {language!r} twice; evaluate anew")
    # Not pivot_table, which would add up what is missing to zero.
    return numbered.pivot(index="_mask", columns=item, values=value).reindex(range(masks))  # noqa: PD010


def _arranged(
    frame: pd.DataFrame, *, language: str, item: str, values: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, list[np.ndarray]]]:
    """The masks, and for each language its values as arrays (masks, items), the unmasked model first.

    Raises
    ------
    CraneError : several models, no unmasked values, or a mask that was not evaluated on the same items
    """
    masks, numbered = number_masks(frame)
    arrays = {}
    for code in sorted(set(frame[language])):
        part = numbered[numbered[language] == code]
        tables = [values_by_mask(part, masks=len(masks), item=item, value=name, language=str(code)) for name in values]
        if any(table.isna().to_numpy().any() for table in tables):
            raise CraneError(f"bootstrap: not every mask was evaluated on the same items of {code!r}; evaluate anew")
        arrays[str(code)] = [table.to_numpy(dtype=float) for table in tables]
    return masks, arrays


def _gather(
    metric: str, languages: Sequence[str], masks: pd.DataFrame, values: list[np.ndarray], draws: list[np.ndarray]
) -> Resampled:
    """Scores a language, (masks,) and (B, masks) with the unmasked model first, put together."""
    every, drawn = np.stack(values, axis=-1), np.stack(draws, axis=-1)  # (masks, K), (B, masks, K)
    masks = masks.iloc[1:].reset_index(drop=True)
    return Resampled(metric, tuple(languages), masks, every[0], every[1:], drawn[:, 0], drawn[:, 1:])


def resample_documents(
    documents: pd.DataFrame,
    *,
    metric: DocumentMeasure = "token_probability",
    resamples: int = RESAMPLES,
    random_seed: int = 0,
) -> Resampled:
    """Bootstrap over documents, weighted by tokens, as perplexity is.

    Parameters
    ----------
    documents : rows of ``documents.parquet`` of one model

    Raises
    ------
    CraneError : the frame has several models, no unmasked one, or masks on different documents
    """
    masks, arrays = _arranged(documents, language="evaluation_language", item="document", values=["nll", "tokens"])
    point, draws = [], []
    for number, (nll, tokens) in enumerate(arrays.values()):
        generator = generator_for(random_seed, number)
        drawn = resample_ratios(nll, tokens[:1], resamples=resamples, generator=generator)
        mean = ratios(np.ones((1, nll.shape[1])), nll, tokens[:1])[0]
        point.append(mean if metric == "nll" else np.exp(-mean))
        draws.append(drawn if metric == "nll" else np.exp(-drawn))
    return _gather(metric, list(arrays), masks, point, draws)


def resample_items(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> Resampled:
    """Bootstrap over questions; `items` are rows of ``items.parquet`` of one model.

    Raises
    ------
    CraneError : as `resample_documents`
    """
    masks, arrays = _arranged(items, language="language", item="item", values=["correct"])
    point, draws = [], []
    for number, (correct,) in enumerate(arrays.values()):
        each = np.ones((1, correct.shape[1]))
        generator = generator_for(random_seed, number)
        point.append(ratios(each, correct, each)[0])
        draws.append(resample_ratios(correct, each, resamples=resamples, generator=generator))
    return _gather("accuracy", list(arrays), masks, point, draws)
