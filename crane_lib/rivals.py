"""Scores of other authors' methods, and of common ones: functions from `UnitScores` for `crane_lib.methods`.

Values of single documents are arrays (documents, L, I) by language; the label of a document is its language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crane_lib.selection import (
    Chosen,
    Scores,
    activation_entropy,
    firing_threshold,
    marked_indices,
    normalized_contrast,
    top,
)

if TYPE_CHECKING:
    from crane_lib.methods import PublishedRules
    from crane_lib.scores import UnitScores

OFTEN = 0.8  # quantile of the threshold at a budget; above the .95 of LAPE's authors too few neurons are left


# --- firing ---


def _lowest_entropy(entropy: np.ndarray, probability: Scores) -> dict[str, np.ndarray]:
    """Scores: low entropy first among neurons that fire often in the language, then the others by probability."""
    threshold = firing_threshold(probability, OFTEN)
    above = float(entropy.max()) + 2.0  # so that all of the first are above 1
    return {k: np.where(values > threshold, above - entropy, values) for k, values in probability.items()}


def lape_with_threshold(units: UnitScores) -> dict[str, np.ndarray]:
    """LAPE at a budget that keeps a threshold: neurons of lowest entropy among those that fire often."""
    return _lowest_entropy(activation_entropy(units.firing)[0], units.firing)


def rewarded_entropy(probability: Scores, *, weight: float) -> np.ndarray:
    """LAPE's entropy as a share of its maximum, minus `weight` times the largest probability (NJUNLP).

    The probability is divided by the mean of 1, 1/2, ..., 1/K for K languages. Without firing the share is 1.
    """
    count = len(probability)
    stacked = np.stack(list(probability.values()))
    share = np.where(stacked.sum(axis=0) > 0, activation_entropy(probability)[0] / np.log(count), 1.0)
    return share - weight * stacked.max(axis=0) / np.mean(1 / np.arange(1, count + 1))


def rewarded_sets(probability: Scores, *, weight: float, quantile: float, share: float) -> np.ndarray:
    """Neurons of every language (languages, L, I): lowest rewarded entropy, and firing often in the language."""
    entropy = rewarded_entropy(probability, weight=weight)
    often = np.stack(list(probability.values())) > firing_threshold(probability, quantile)
    return often & top(-entropy, round(share * entropy.size))


def reward_weight(probability: Scores, *, quantile: float = 0.95, share: float = 0.01) -> float:
    """Weight of NJUNLP: the largest from 0 to .2, to .001, with which no neuron is in the sets of all languages."""

    def apart(weight: float) -> bool:
        return not rewarded_sets(probability, weight=weight, quantile=quantile, share=share).all(axis=0).any()

    low, high = 0.0, 0.2
    if apart(high):
        return high
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (middle, high) if apart(middle) else (low, middle)
    return low


def njunlp(units: UnitScores) -> dict[str, np.ndarray]:
    """NJUNLP at a budget: neurons of lowest rewarded entropy among those that fire often."""
    return _lowest_entropy(rewarded_entropy(units.firing, weight=reward_weight(units.firing)), units.firing)


def njunlp_published(units: UnitScores, rules: PublishedRules) -> dict[str, Chosen]:
    """NJUNLP as in its released code: a share of the neurons, each for the languages in which it fires often."""
    given = {"quantile": rules.lape_threshold_quantile, "share": rules.lape_share}
    kept = rewarded_sets(units.firing, weight=reward_weight(units.firing, **given), **given)
    return {language: {"neuron": marked_indices(kept[place])} for place, language in enumerate(units.firing)}


# --- activations of single documents ---


def _labelled(values: Scores) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Documents of all languages together (N, L, I), and by language whether each is of it (N,)."""
    names = np.concatenate([np.full(len(item), language) for language, item in values.items()])
    return np.concatenate(list(values.values())).astype(np.float64), {k: names == k for k in values}


def average_precision(label: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Average precision of many rankings of the same documents; ties count as one step, as in scikit-learn.

    Parameters
    ----------
    label : (N,) True for the documents to be found
    values : (N, units)

    Returns
    -------
    (units,)
    """
    order = np.argsort(-values, axis=0, kind="stable")
    ranked, found = np.take_along_axis(values, order, axis=0), label[order]
    places = np.arange(len(label))[:, None]
    ends = np.ones(values.shape, dtype=bool)  # of a group of ties
    ends[:-1] = ranked[:-1] != ranked[1:]
    end = np.minimum.accumulate(np.where(ends, places, len(label))[::-1], axis=0)[::-1]
    precision = np.take_along_axis(found.cumsum(axis=0) / (places + 1), end, axis=0)
    return (found * precision).sum(axis=0) / label.sum()


def average_precisions(units: UnitScores, values: str = "mean") -> dict[str, np.ndarray]:
    """Average precision of a neuron's mean activation in telling the language of a document (Kojima et al. 2024).

    They set the neurons of highest and of lowest precision to a value; the highest are the ones to silence.
    """
    documents, labels = _labelled(units.document_values(values))
    layers = documents.swapaxes(0, 1)
    return {k: np.stack([average_precision(label, layer) for layer in layers]) for k, label in labels.items()}


def precisions_of_size(units: UnitScores) -> dict[str, np.ndarray]:
    """Average precision of the size of h, which may be negative: finds more neurons that a language uses."""
    return average_precisions(units, "size")


def smallest_output(units: UnitScores) -> dict[str, np.ndarray]:
    """Smallest importance of a neuron in any document of the language (PLND, Zhao et al. 2024).

    PLND takes the neurons whose importance is above a threshold in every document: the largest of these. Importance is
    the change of the layer's output per token: the root mean square of h, times the norm of the column of `down_proj`.
    """
    return {language: sizes.min(axis=0) * units.norms for language, sizes in units.document_values("size").items()}


def _standardised_sizes(units: UnitScores) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Sizes of h, standardised over documents (N, L x I), and by language whether each document is of it."""
    from sklearn.preprocessing import StandardScaler

    documents, labels = _labelled(units.document_values("size"))
    return StandardScaler().fit_transform(documents.reshape(len(documents), -1)), labels


def differences_of_means(units: UnitScores) -> dict[str, np.ndarray]:
    """Mean over the documents of the language minus that over all others, of standardised sizes of h."""
    sizes, labels = _standardised_sizes(units)
    found = {k: sizes[own].mean(axis=0) - sizes[~own].mean(axis=0) for k, own in labels.items()}
    return {k: values.reshape(units.norms.shape) for k, values in found.items()}


def probe_weights(units: UnitScores) -> dict[str, np.ndarray]:
    """Weights of a logistic regression on standardised sizes of h: the language against all others."""
    from sklearn.linear_model import LogisticRegression

    sizes, labels = _standardised_sizes(units)
    probes = {k: LogisticRegression(max_iter=1000).fit(sizes, own) for k, own in labels.items()}
    return {k: probe.coef_.reshape(units.norms.shape) for k, probe in probes.items()}


# --- relevance and gradients of single documents ---


def relevance_of_difference(units: UnitScores) -> dict[str, np.ndarray]:
    """Relevance of what differs from the document in the same place of another language (RelP), the least of them.

    Sum over tokens of dS/dh (h - h'), averaged over documents, with the slope of the relevance rules and h' the mean
    activation of the other document: a translation in a parallel corpus, any document in another.
    """
    relevance, slope = (units.document_values(name, kind="slopes") for name in ("relevance", "slope"))
    mean = units.document_values("mean")
    count = min(map(len, mean.values()))

    def against(k: str, other: str) -> np.ndarray:
        return (relevance[k][:count] - slope[k][:count].astype(np.float64) * mean[other][:count]).mean(axis=0)

    return {k: np.min([against(k, other) for other in mean if other != k], axis=0) for k in mean}


def integrated(units: UnitScores) -> dict[str, np.ndarray]:
    """Contrast of integrated gradients: of each layer's h from 0 to its value, averaged over documents."""
    values = units.document_values("integrated", kind="integrated")
    return normalized_contrast({k: item.mean(axis=0, dtype=np.float64) for k, item in values.items()})
