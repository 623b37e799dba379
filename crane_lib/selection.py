"""Selection rules: from statistics a language to neuron sets (method, section 3).

Every rule comes in two forms where it makes sense: as published, and at a given budget (a share of the units), so
that methods are compared at the same size.  Scores are arrays a language; `top` cuts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from crane_lib.errors import CraneError

Scores = Mapping[str, np.ndarray]  # language -> (L, I)
RowScores = Mapping[str, Mapping[str, np.ndarray]]  # language -> site -> (L, units)
Chosen = dict[str, list[np.ndarray]]  # site -> per layer sorted indices

ROW_SITES = ("gate", "up", "down")  # of which an ungated MLP has no gate


def row_sites(values: Mapping[str, Any]) -> list[str]:
    """The row sites that a model has, in their order."""
    return [site for site in ROW_SITES if site in values]


def _indices(mask: np.ndarray) -> list[np.ndarray]:
    """Per layer the indices that a boolean array (L, units) marks."""
    return [np.flatnonzero(layer).astype(np.int64) for layer in mask]


def budget_count(budget: float, units: int) -> int:
    """Number of units that a share of them is, at least one."""
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


def normalized_contrast(values: Scores, *, against: Literal["largest", "mean"] = "largest") -> dict[str, np.ndarray]:
    """Own minus the largest other (or the others' mean), each language first normalised by its L1 norm.

    Parameters
    ----------
    values : per language the mean over documents of a unit's relevance, or its activation probability  (L, I)
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
        result[language] = scaled[language] - (others.max(axis=0) if against == "largest" else others.mean(axis=0))
    return result


def select_top(scores: Scores, *, budget: float) -> dict[str, Chosen]:
    """The `budget` share of neurons with the largest score, a language."""
    return {
        language: {"neuron": _indices(top(score, budget_count(budget, score.size)))}
        for language, score in scores.items()
    }


def select_contrast(
    values: Scores, *, budget: float, against: Literal["largest", "mean"] = "largest"
) -> dict[str, Chosen]:
    """The `budget` share of neurons with the largest normalised contrast, a language."""
    return select_top(normalized_contrast(values, against=against), budget=budget)


def kurtosis_z(kurtosis: RowScores) -> dict[str, dict[str, np.ndarray]]:
    """z-score of the excess kurtosis over all rows of all layers and matrices of a language.

    Rows whose statistic never varied have no kurtosis (NaN); they stay NaN and are never chosen.
    """
    result = {}
    for language, sites in kurtosis.items():
        everything = np.concatenate([sites[site].ravel() for site in row_sites(sites)])
        mean, deviation = np.nanmean(everything), np.nanstd(everything)
        if not np.isfinite(deviation) or deviation == 0:
            raise CraneError(f"kurtosis: the statistics of {language!r} do not vary; it needs four documents or more")
        result[language] = {site: (sites[site] - mean) / deviation for site in row_sites(sites)}
    return result


def select_kurtosis(kurtosis: RowScores, *, threshold: float) -> dict[str, Chosen]:
    """The released rule: rows whose kurtosis over documents has z > `threshold` in the language."""
    return {
        language: {site: _indices(np.nan_to_num(z, nan=-np.inf) > threshold) for site, z in sites.items()}
        for language, sites in kurtosis_z(kurtosis).items()
    }


def select_kurtosis_budget(kurtosis: RowScores, *, budget: float) -> dict[str, Chosen]:
    """The `budget` share of rows with the largest kurtosis, over all layers and matrices."""
    return {language: select_top_rows(sites, share=budget) for language, sites in kurtosis.items()}


def select_top_rows(scores: Mapping[str, np.ndarray], *, share: float) -> Chosen:
    """The `share` of rows with the largest score, over all layers and matrices of one language."""
    names = row_sites(scores)
    shapes = [scores[site].shape for site in names]
    everything = np.concatenate([scores[site].ravel() for site in names])
    mask = top(everything, budget_count(share, everything.size))
    parts = np.split(mask, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
    return {site: _indices(part.reshape(shape)) for site, part, shape in zip(names, parts, shapes, strict=True)}


def activation_entropy(probability: Scores) -> tuple[np.ndarray, np.ndarray]:
    """LAPE's entropy of each neuron over languages, and the shares it is made of.

    Returns
    -------
    entropy (L, I) in nats and shares (languages, L, I); a neuron that never fires has shares 0 and entropy 0
    """
    stacked = np.stack(list(probability.values()))
    total = stacked.sum(axis=0)
    shares = np.divide(stacked, total, out=np.zeros_like(stacked), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=0), shares


def select_lape(probability: Scores, *, threshold_quantile: float, share: float) -> dict[str, Chosen]:
    """LAPE as released: the neurons of lowest entropy, each given to every language in which it fires often.

    Parameters
    ----------
    probability : per language the share of tokens at which a neuron's activation is positive  (L, I)
    threshold_quantile : "often" is above this quantile of all probabilities (the round(q N)-th smallest)
    share : share of the neurons that are kept
    """
    languages = list(probability)
    stacked = np.stack([probability[language] for language in languages])
    ordered = np.sort(stacked.ravel())
    threshold = ordered[max(round(threshold_quantile * ordered.size) - 1, 0)]
    entropy, _shares = activation_entropy(probability)
    often = stacked > threshold
    entropy = np.where(often.any(axis=0), entropy, np.inf)
    kept = top(-entropy, round(share * entropy.size))
    return {language: {"neuron": _indices(kept & often[i])} for i, language in enumerate(languages)}


def select_lape_budget(probability: Scores, *, budget: float) -> dict[str, Chosen]:
    """LAPE at a budget: a language's neurons are those it fires most of all languages, lowest entropy first.

    LAPE's own threshold leaves fewer neurons than most budgets ask for; this ranking keeps its order and drops the
    threshold.  Where a language leads in too few neurons, those with its largest shares follow.
    """
    return select_top(lape_scores(probability), budget=budget)


def lape_scores(probability: Scores) -> dict[str, np.ndarray]:
    """What `select_lape_budget` ranks by: low entropy where the language leads, the language's share elsewhere."""
    entropy, shares = activation_entropy(probability)
    largest = np.log(len(probability)) + 1.0
    scores = {}
    for i, language in enumerate(probability):
        leads = shares[i] >= shares.max(axis=0)
        scores[language] = np.where(leads & (shares[i] > 0), 2 * largest - entropy, shares[i])
    return scores


def select_random_like(chosen: Chosen, widths: Mapping[str, int], *, generator: np.random.Generator) -> Chosen:
    """Random units, as many in every layer and site as `chosen` has (layer-and-site-matched)."""
    return {
        site: [
            np.sort(generator.choice(widths[site], size=len(indices), replace=False)).astype(np.int64)
            for indices in layers
        ]
        for site, layers in chosen.items()
    }


def select_random(layers: int, width: int, *, count: int, generator: np.random.Generator) -> Chosen:
    """So many random neurons out of all layers together (global uniform)."""
    mask = np.zeros(layers * width, dtype=bool)
    mask[generator.choice(mask.size, size=count, replace=False)] = True
    return {"neuron": _indices(mask.reshape(layers, width))}


def select_fully_random(layers: int, width: int, *, generator: np.random.Generator) -> Chosen:
    """Random neurons of which the number is random, too: uniform from none to all (fully random)."""
    count = int(generator.integers(0, layers * width, endpoint=True))
    return select_random(layers, width, count=count, generator=generator)
