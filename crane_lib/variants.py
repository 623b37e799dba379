"""Variants of the selection rules for the ablation table: the released code's later ones, and ours.

The released description leaves some room; each function says how it was read.  All work on the kurtosis over documents
of the released row statistic, except `relevance_variants`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crane_lib.selection import Chosen, RowScores, Scores, kurtosis_z, select_contrast, select_top, select_top_rows

Variants = dict[tuple[str, str], dict[str, Chosen]]  # (rule, level) -> language -> what is chosen

RAW = (1, 3, 10, 30)
Z = (0.2, 0.5, 1, 2, 3, 5, 10)
MARGIN = (0.1, 0.5, 1, 2, 5, 10)
SHARE = (0.5, 0.9, 0.95, 0.99)
KEPT_RATE = (0.9, 0.95, 0.99)
WEIGHTS = (0, 0.5, 1, 2)
TAILS = (0.01, 0.005, 0.001, 0.0001)


def _above(scores: RowScores, threshold: float, *, strictly: bool) -> dict[str, Chosen]:
    """Rows whose score is above the threshold (or on it); NaN never is."""
    return {
        language: {
            site: [
                np.flatnonzero(layer > threshold if strictly else layer >= threshold).astype(np.int64)
                for layer in np.nan_to_num(values, nan=-np.inf)
            ]
            for site, values in sites.items()
        }
        for language, sites in scores.items()
    }


def _others(scores: RowScores, language: str, site: str) -> np.ndarray:
    """The other languages' scores of a site  (languages - 1, L, rows)"""
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


def _thresholds(rule: str, scores: RowScores, levels: Sequence[float], *, strictly: bool) -> Variants:
    sign = ">" if strictly else "≥"
    return {(rule, f"{sign} {level:g}"): _above(scores, level, strictly=strictly) for level in levels}


def kurtosis_variants(kurtosis: RowScores) -> Variants:
    """Every released variant of the kurtosis rule.

    Raw kurtosis and z above a threshold; z at least so far above the largest other; at least a share of |z|; among the
    rows with the largest mean relative gap (kept rate .9: the top tenth); the rows of the largest and of the smallest
    kurtosis.
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


def _tails(scores: RowScores, share: float) -> dict[str, Chosen]:
    return {language: select_top_rows(sites, share=share) for language, sites in scores.items()}


def weighted_contrast(values: Scores, *, weight: float) -> dict[str, np.ndarray]:
    """Own minus so many times the largest other where that is positive, each language first given the L1 norm 1."""
    scaled = {language: array / np.abs(array).sum() for language, array in values.items()}
    return {
        k: scaled[k] - weight * np.maximum(0.0, np.max([scaled[other] for other in scaled if other != k], axis=0))
        for k in scaled
    }


def relevance_variants(relevance: Scores, log_probability: Mapping[str, Scores] | None, *, budget: float) -> Variants:
    """Our contrast with other weights of the largest other language, and on the log-probability objective.

    That objective is taken as it stands, with its sign turned (a log-probability is negative and relevance shares out
    its value), and as |R|.

    Parameters
    ----------
    relevance : mean relevance of every neuron
    log_probability : ``signed`` and ``absolute``: the same under that objective, if there is one
    """
    at = f"{budget:g}"
    weighted: Variants = {
        ("contrast_weighted", f"weight {weight:g}"): select_top(
            weighted_contrast(relevance, weight=weight), budget=budget
        )
        for weight in WEIGHTS
    }
    if log_probability is None:
        return weighted
    signed = log_probability["signed"]
    return weighted | {
        ("log_probability_contrast", at): select_contrast(signed, budget=budget),
        ("log_probability_turned", at): select_contrast({k: -values for k, values in signed.items()}, budget=budget),
        ("log_probability_abs", at): select_contrast(log_probability["absolute"], budget=budget),
    }
