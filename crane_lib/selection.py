"""Selection rules: from statistics per language to neuron sets (method, section 3).

Scores are arrays per language. At a budget, the units with the largest scores are selected, so that methods are
compared at the same size. LAPE and kurtosis also have published forms with thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from crane_lib.errors import CraneError

Scores = Mapping[str, np.ndarray]  # language -> (L, I)
RowScores = Mapping[str, Mapping[str, np.ndarray]]  # language -> site -> (L, units)
Chosen = dict[str, list[np.ndarray]]  # site -> layer -> sorted indices

ROW_SITES = ("gate", "up", "down")  # of which an ungated MLP has no gate


def row_sites(values: Mapping[str, Any]) -> list[str]:
    """The row sites among the keys, in the order of `ROW_SITES`."""
    return [site for site in ROW_SITES if site in values]


# --- the largest scores ---


def budget_count(budget: float, units: int) -> int:
    """Number of units in this share of them, at least one.

    Raises
    ------
    CraneError : the budget is not between 0 and 1
    """
    if not 0 < budget < 1:
        raise CraneError(f"budget {budget}: expected a share between 0 and 1")
    return max(1, round(budget * units))


def top(scores: np.ndarray, count: int) -> np.ndarray:
    """Boolean array marking the `count` largest scores; NaN is never chosen, ties go to the lower index."""
    flat = np.where(np.isnan(scores), -np.inf, scores).ravel()
    usable = int(np.isfinite(flat).sum())
    order = np.argsort(-flat, kind="stable")[: min(count, usable)]
    mask = np.zeros(flat.size, dtype=bool)
    mask[order] = True
    return mask.reshape(scores.shape)


def marked_indices(mask: np.ndarray) -> list[np.ndarray]:
    """Indices that a boolean array (L, units) marks, per layer."""
    return [np.flatnonzero(layer).astype(np.int64) for layer in mask]


def select_top(scores: Scores, *, budget: float, site: str = "neuron") -> dict[str, Chosen]:
    """Select the `budget` share of neurons (or heads) with the largest score, per language."""
    return {
        language: {site: marked_indices(top(score, budget_count(budget, score.size)))}
        for language, score in scores.items()
    }


def select_top_rows(scores: Mapping[str, np.ndarray], *, share: float) -> Chosen:
    """Select the `share` of rows with the largest score, over all layers and matrices of one language."""
    everything = np.concatenate([scores[site].ravel() for site in row_sites(scores)])
    return _marked_rows(top(everything, budget_count(share, everything.size)), scores)


def _marked_rows(mask: np.ndarray, scores: Mapping[str, np.ndarray]) -> Chosen:
    """Rows that a boolean array over all sites together marks."""
    names = row_sites(scores)
    parts = np.split(mask, np.cumsum([scores[site].size for site in names])[:-1])
    return {site: marked_indices(part.reshape(scores[site].shape)) for site, part in zip(names, parts, strict=True)}


def select_rows_killing(scores: Mapping[str, np.ndarray], *, budget: float) -> Chosen:
    """Select the rows with the largest scores of one language until `budget` of all neurons are killed.

    Zeroing the gate row or the up row of a neuron kills it; rows of ``down`` kill none, but are selected on the way.
    """
    names = row_sites(scores)
    flat = np.concatenate([scores[site].ravel() for site in names])
    neurons = np.concatenate(
        [np.full(scores[site].size, -1) if site == "down" else np.arange(scores[site].size) for site in names]
    )
    order = np.argsort(np.where(np.isnan(flat), np.inf, -flat), kind="stable")[: int((~np.isnan(flat)).sum())]
    killed, first = np.unique(neurons[order], return_index=True)
    first = np.sort(first[killed >= 0])  # places in the order at which one more neuron is killed
    wanted = budget_count(budget, scores["up"].size)
    mask = np.zeros(flat.size, dtype=bool)
    mask[order[: first[wanted - 1] + 1] if len(first) >= wanted else order] = True
    return _marked_rows(mask, scores)


# --- contrast ---


def normalized_contrast(
    values: Scores, against: Literal["largest", "mean"] = "largest", *, penalty: float = 1.0
) -> dict[str, np.ndarray]:
    """Own value minus the largest other (or the mean of the others), each language first divided by its L1 norm.

    Parameters
    ----------
    values : mean relevance of a unit over documents, or its activation probability  (L, I)
    penalty : factor of what is subtracted

    Raises
    ------
    CraneError : fewer than two languages, or the values of one sum to zero or are not finite
    """
    if len(values) < 2:
        raise CraneError(f"contrast needs at least two languages, saw {sorted(values)}")
    norms = {language: np.abs(array).sum() for language, array in values.items()}
    for language, norm in norms.items():
        if not np.isfinite(norm) or norm == 0:
            raise CraneError(f"contrast: the statistics of {language!r} sum to {norm}; was its corpus empty?")
    scaled = {language: array / norms[language] for language, array in values.items()}
    result = {}
    for language in scaled:
        others = np.stack([scaled[other] for other in scaled if other != language])
        other = others.max(axis=0) if against == "largest" else others.mean(axis=0)
        result[language] = scaled[language] - penalty * other
    return result


# --- kurtosis ---


def kurtosis_z(kurtosis: RowScores) -> dict[str, dict[str, np.ndarray]]:
    """z-score of the excess kurtosis over all rows of all layers and matrices of a language.

    Rows whose statistic never varied have no kurtosis (NaN); they stay NaN and are never chosen.

    Raises
    ------
    CraneError : the kurtosis of a language does not vary
    """
    result = {}
    for language, sites in kurtosis.items():
        everything = np.concatenate([sites[site].ravel() for site in row_sites(sites)])
        mean, deviation = np.nanmean(everything), np.nanstd(everything)
        if not np.isfinite(deviation) or deviation == 0:
            raise CraneError(f"kurtosis: the statistics of {language!r} do not vary; it needs at least four documents")
        result[language] = {site: (sites[site] - mean) / deviation for site in row_sites(sites)}
    return result


def select_kurtosis(kurtosis: RowScores, *, threshold: float) -> dict[str, Chosen]:
    """Select rows whose kurtosis over documents has z > `threshold` in the language, as the released code does."""
    return {
        language: {site: marked_indices(np.nan_to_num(z, nan=-np.inf) > threshold) for site, z in sites.items()}
        for language, sites in kurtosis_z(kurtosis).items()
    }


# --- LAPE ---


def activation_entropy(probability: Scores) -> tuple[np.ndarray, np.ndarray]:
    """LAPE's entropy of each neuron over languages, and the shares that it is computed from.

    Returns
    -------
    entropy (L, I) in nats and shares (languages, L, I); a neuron that never fires has shares 0 and entropy 0
    """
    stacked = np.stack(list(probability.values()))
    total = stacked.sum(axis=0)
    shares = np.divide(stacked, total, out=np.zeros_like(stacked), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=0), shares


def lape_scores(probability: Scores) -> dict[str, np.ndarray]:
    """Scores for LAPE at a budget: low entropy first among neurons that the language fires most of all languages.

    LAPE's own threshold leaves fewer neurons than most budgets ask for; this ranking keeps its order without the
    threshold. The other neurons follow, those with the largest shares of the language first.
    """
    entropy, shares = activation_entropy(probability)
    largest = np.log(len(probability)) + 1.0
    scores = {}
    for i, language in enumerate(probability):
        leads = shares[i] >= shares.max(axis=0)
        scores[language] = np.where(leads & (shares[i] > 0), 2 * largest - entropy, shares[i])
    return scores


def firing_threshold(probability: Scores, quantile: float) -> float:
    """LAPE's threshold of firing often: the round(q N)-th smallest of all N probabilities."""
    ordered = np.sort(np.stack(list(probability.values())).ravel())
    return float(ordered[max(round(quantile * ordered.size) - 1, 0)])


def select_lape(probability: Scores, *, threshold_quantile: float, share: float) -> dict[str, Chosen]:
    """LAPE as released: the neurons of lowest entropy, each for every language in which it fires often.

    Parameters
    ----------
    probability : share of tokens at which a neuron's activation is positive  (L, I)
    threshold_quantile : "often" is above this quantile of all probabilities, `firing_threshold`
    share : share of the neurons that are kept
    """
    languages = list(probability)
    often = np.stack(list(probability.values())) > firing_threshold(probability, threshold_quantile)
    entropy, _shares = activation_entropy(probability)
    entropy = np.where(often.any(axis=0), entropy, np.inf)
    kept = top(-entropy, round(share * entropy.size))
    return {language: {"neuron": marked_indices(kept & often[i])} for i, language in enumerate(languages)}
