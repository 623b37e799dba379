"""Scores of masks under resampling: a paired bootstrap over documents, questions or open answers.

Masked and unmasked scores are computed on the same resampled items, so what makes an item hard for both cancels.
Questions of one group are drawn together. Where every language has documents of the same numbers, or groups of the same
names, those are resampled in all languages together, because they may be translations of each other; if they are not,
that changes nothing. Other items are resampled by language.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_study.measure.rows import MASK

DocumentMeasure = Literal["token_probability", "nll"]
RESAMPLES = 2000
LEVEL = 0.95
_BLOCK_VALUES = 1 << 24  # counts of resampled items that are in memory at once


@dataclass(frozen=True)
class Resampled:
    """Scores in K languages of the M masks of one model, as measured and in B resamples.

    `masks` has the columns of `MASK`. Shapes: unmasked (K,), measured (M, K), unmasked_draws (B, K), draws (B, M, K).
    """

    metric: str
    languages: tuple[str, ...]
    masks: pd.DataFrame
    unmasked: np.ndarray
    measured: np.ndarray
    unmasked_draws: np.ndarray
    draws: np.ndarray


def resample_counts(items: int, resamples: int, *, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Number of times each item is drawn in each resample, in blocks (b, items) that fit into memory."""
    if not items:
        yield np.zeros((resamples, 0))
        return
    block = max(1, _BLOCK_VALUES // items)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield generator.multinomial(items, np.full(items, 1.0 / items), size=size).astype(np.float64)


def generator_for(random_seed: int, language: int) -> np.random.Generator:
    """Generator that resamples the items of a language; `language` is its place in sorted order."""
    return np.random.default_rng([random_seed, 7919, language])


def ratios(counts: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients of sums over items, each counted `counts` (b, items) times: (b, masks); NaN for 0 / 0.

    Numerator and denominator are (masks, items); one row serves all masks.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts @ numerator.T) / (counts @ denominator.T)


def resample_ratios(
    numerator: np.ndarray, denominator: np.ndarray, *, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """`ratios` under resampling of the items  (B, masks)"""
    blocks = resample_counts(numerator.shape[1], resamples, generator=generator)
    return np.concatenate([ratios(counts, numerator, denominator) for counts in blocks])


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval over the first axis; draws without a value (NaN) do not count."""
    quantile = np.nanquantile if np.isnan(draws).any() else np.quantile
    with warnings.catch_warnings():  # where no draw has a value, the interval is NaN; that is enough
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        low, high = quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def quotient(part: np.ndarray, whole: np.ndarray) -> tuple[float, float, float]:
    """Quotient of what was measured, which comes first, with its 95 % interval over the draws after it  (1 + B,)

    All three are NaN unless `whole` and its own interval are above 0: a quotient by what may be 0 has no limits.
    """
    if not (whole[0] > 0 and interval(whole[1:])[0] > 0):
        return np.nan, np.nan, np.nan
    found = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    low, high = interval(found[1:])
    return float(found[0]), float(low), float(high)


def number_masks(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Masks of one model, the unmasked model first, and the frame with the number of each row's mask (``_mask``)."""
    models = sorted(set(frame["model"]))
    if len(models) != 1:
        raise CraneError(f"bootstrap: expected the items of one model, saw {models}")
    frame = frame.assign(masked_language=frame["masked_language"].fillna(""), budget=frame["budget"].astype(str))
    masks = frame[MASK].drop_duplicates().reset_index(drop=True)
    unmasked = masks["method"] == "none"
    if unmasked.sum() != 1:
        raise CraneError(f"bootstrap: expected the unmasked model once, saw it {int(unmasked.sum())} times")
    masks = pd.concat([masks[unmasked], masks[~unmasked]], ignore_index=True)
    return masks, frame.merge(masks.assign(_mask=range(len(masks))), on=MASK, how="left", validate="many_to_one")


def values_by_mask(numbered: pd.DataFrame, *, masks: int, item: str, value: str, language: str) -> pd.DataFrame:
    """Values of one language, one row per mask and one column per item; NaN where a mask has none."""
    if numbered.duplicated(["_mask", item]).any():
        raise CraneError(f"bootstrap: a mask has an item of {language!r} twice; evaluate again")
    # Not pivot_table, which would turn missing values into zeros.
    return numbered.pivot(index="_mask", columns=item, values=value).reindex(range(masks))  # noqa: PD010


def _resample(
    frame: pd.DataFrame, metric: str, names: tuple[str, str, str], values: Sequence[str], draw: tuple[int, int]
) -> Resampled:
    """Resample the mean of one value per item, or the quotient of the sums of two, `draw` (resamples, random seed).

    `names` are the columns of language, item and group, the unit that is resampled. The denominator, the second of
    `values`, is that of the unmasked model.
    """
    masks, numbered = number_masks(frame)
    (language, item, unit), (resamples, random_seed) = names, draw
    languages = sorted(set(frame[language]))
    units = {code: part.groupby(item)[unit].first() for code, part in frame.groupby(language)}  # by item, in order
    joint = len({frozenset(groups) for groups in units.values()}) == 1
    measured, draws = [], []
    for place, code in enumerate(languages):
        part = numbered[numbered[language] == code]
        tables = [values_by_mask(part, masks=len(masks), item=item, value=name, language=str(code)) for name in values]
        if any(table.isna().to_numpy().any() for table in tables):
            raise CraneError(f"bootstrap: not every mask was evaluated on the same items of {code!r}; evaluate again")
        numerator, *others = [table.to_numpy(dtype=float) for table in tables]
        denominator = others[0][:1] if others else np.ones((1, numerator.shape[1]))
        order = pd.unique(units[languages[0] if joint else code])
        member = pd.Index(order).get_indexer(units[code])
        numerator, denominator = (
            pd.DataFrame(x.T).groupby(member).sum().to_numpy().T for x in (numerator, denominator)
        )
        once = np.ones((1, len(order)))
        measured.append(ratios(once, numerator, denominator)[0])
        generator = generator_for(random_seed, 0 if joint else place)  # the same numbers for equally many units
        draws.append(resample_ratios(numerator, denominator, resamples=resamples, generator=generator))
    every, drawn = np.stack(measured, axis=-1), np.stack(draws, axis=-1)  # (masks, K), (B, masks, K)
    masks = masks.iloc[1:].reset_index(drop=True)
    return Resampled(metric, tuple(map(str, languages)), masks, every[0], every[1:], drawn[:, 0], drawn[:, 1:])


def resample_documents(
    documents: pd.DataFrame,
    *,
    metric: DocumentMeasure = "token_probability",
    resamples: int = RESAMPLES,
    random_seed: int = 0,
) -> Resampled:
    """Bootstrap over documents (``documents.parquet`` of one model), weighted by tokens, as perplexity is."""
    names, values = ("evaluation_language", "document", "document"), ("nll", "tokens")
    nll = _resample(documents, metric, names, values, (resamples, random_seed))
    if metric == "nll":
        return nll
    arrays = ("unmasked", "measured", "unmasked_draws", "draws")
    scores: dict[str, Any] = {name: np.exp(-getattr(nll, name)) for name in arrays}
    return replace(nll, **scores)


def resample_items(items: pd.DataFrame, *, resamples: int = RESAMPLES, random_seed: int = 0) -> Resampled:
    """Bootstrap over groups of questions (column group; a question without one is a group of its own).

    `items` are rows of ``items.parquet`` of one model.
    """
    alone = items["language"].astype(str) + "/" + items["item"].astype(str)
    groups = items["group"].where(items["group"] != "", alone) if "group" in items else alone
    names = ("language", "item", "_group")
    return _resample(items.assign(_group=groups), "accuracy", names, ("correct",), (resamples, random_seed))
