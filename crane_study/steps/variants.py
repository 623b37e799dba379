"""Variants of the selection rules for the ablation table: the later ones of the released code, and ours.

The released description leaves some room; each function states how it was read. All use the kurtosis over documents of
the released row statistic, except `relevance_variants`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crane_lib.selection import (
    Chosen,
    RowScores,
    Scores,
    kurtosis_z,
    marked_indices,
    normalized_contrast,
    select_top,
    select_top_rows,
)

Variants = dict[tuple[str, str], dict[str, Chosen]]  # (rule, level) -> language -> what is chosen

RAW = (1, 3, 10, 30)
Z = (0.2, 0.5, 1, 2, 3, 5, 10)
MARGIN = (0.1, 0.5, 1, 2, 5, 10)
SHARE = (0.5, 0.9, 0.95, 0.99)
KEPT_RATE = (0.9, 0.95, 0.99)
WEIGHTS = (0, 0.5, 1, 2)
TAILS = (0.01, 0.005, 0.001, 0.0001)


def _thresholds(rule: str, scores: RowScores, levels: Sequence[float], *, strictly: bool) -> Variants:
    """Rows whose score is above each level (or at it); NaN never is."""
    sign = ">" if strictly else "≥"
    usable = {
        language: {site: np.nan_to_num(values, nan=-np.inf) for site, values in sites.items()}
        for language, sites in scores.items()
    }
    return {
        (rule, f"{sign} {level:g}"): {
            language: {
                site: marked_indices(values > level if strictly else values >= level) for site, values in sites.items()
            }
            for language, sites in usable.items()
        }
        for level in levels
    }


def _tails(scores: RowScores, share: float) -> dict[str, Chosen]:
    return {language: select_top_rows(sites, share=share) for language, sites in scores.items()}


def _others(scores: RowScores, language: str, site: str) -> np.ndarray:
    """Scores of the other languages at a site  (languages - 1, L, rows)."""
    return np.stack([scores[other][site] for other in scores if other != language])


def margins(z: RowScores) -> dict[str, dict[str, np.ndarray]]:
    """z minus the largest z of another language."""
    return {k: {site: z[k][site] - _others(z, k, site).max(axis=0) for site in z[k]} for k in z}


def shares(z: RowScores) -> dict[str, dict[str, np.ndarray]]:
    """A language's share of |z| summed over the languages."""
    total = {site: sum(np.abs(z[k][site]) for k in z) for site in next(iter(z.values()))}
    return {k: {site: np.abs(z[k][site]) / total[site] for site in z[k]} for k in z}


def gaps(z: RowScores) -> dict[str, dict[str, np.ndarray]]:
    """Mean over the other languages of (z - z of the other) / (|z| + |z of the other|), from -1 to 1."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for language, sites in z.items():
        result[language] = {}
        for site, own in sites.items():
            others = _others(z, language, site)
            size = np.abs(own) + np.abs(others)
            result[language][site] = ((own - others) / np.where(size > 0, size, 1.0)).mean(axis=0)
    return result


def kurtosis_variants(kurtosis: RowScores) -> Variants:
    """Released variants of the kurtosis rule.

    They are: raw kurtosis and z above a threshold; z at least a margin above the largest other; at least a share of
    |z|; the rows with the largest mean relative gap (kept rate .9: the top tenth); the rows with the largest and with
    the smallest kurtosis.
    """
    z = kurtosis_z(kurtosis)
    found = _thresholds("kurtosis_raw", kurtosis, RAW, strictly=True)
    found |= _thresholds("kurtosis_z", z, Z, strictly=True)
    found |= _thresholds("kurtosis_margin", margins(z), MARGIN, strictly=False)
    found |= _thresholds("kurtosis_share", shares(z), SHARE, strictly=False)
    relative = gaps(z)
    found |= {("kurtosis_gap", f"kept rate {rate:g}"): _tails(relative, 1 - rate) for rate in KEPT_RATE}
    turned = {language: {site: -values for site, values in sites.items()} for language, sites in kurtosis.items()}
    for share in TAILS:
        found["kurtosis_top", f"{share:g}"] = _tails(kurtosis, share)
        found["kurtosis_bottom", f"{share:g}"] = _tails(turned, share)
    return found


def weighted_contrast(values: Scores, *, weight: float) -> dict[str, np.ndarray]:
    """Own minus `weight` times the positive part of the largest other, each language first divided by its L1 norm."""
    scaled = {language: array / np.abs(array).sum() for language, array in values.items()}
    return {
        k: scaled[k] - weight * np.maximum(0.0, np.max([scaled[other] for other in scaled if other != k], axis=0))
        for k in scaled
    }


def relevance_variants(relevance: Scores, log_probability: Mapping[str, Scores] | None, *, budget: float) -> Variants:
    """Our contrast with other weights of the largest other language, and under the log-probability objective.

    ``contrast_guarded`` is contrast among neurons whose own relevance is above 0: without the guard one with less than
    that counts as specific if it is still lower in all other languages.

    That objective is used as it is, with its sign turned (a log-probability is negative, and relevance distributes
    its value), and as |R|.

    Parameters
    ----------
    relevance : mean relevance of every neuron
    log_probability : ``signed`` and ``absolute``: the same under that objective, if it was computed
    """
    scores = {
        ("contrast_weighted", f"weight {weight:g}"): weighted_contrast(relevance, weight=weight) for weight in WEIGHTS
    }
    contrast = normalized_contrast(relevance)
    scores["contrast_guarded", f"{budget:g}"] = {k: np.where(relevance[k] > 0, contrast[k], -np.inf) for k in relevance}
    if log_probability is not None:
        signed = log_probability["signed"]
        scores |= {
            (f"log_probability_{name}", f"{budget:g}"): normalized_contrast(values)
            for name, values in {
                "contrast": signed,
                "turned": {language: -array for language, array in signed.items()},
                "abs": log_probability["absolute"],
            }.items()
        }
    return {key: select_top(values, budget=budget) for key, values in scores.items()}
