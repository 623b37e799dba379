"""Overlap of two neuron sets, compared with chance.

Chance: each set is placed at random, keeping its number of units in every layer and site. The number of shared units
in one layer and site is then hypergeometric. The total is a sum of independent hypergeometric counts, so its
distribution is the convolution of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crane_lib.errors import CraneError
from crane_lib.neurons import NEURON, NeuronSet

SMALLEST_P = 1e-50
_NEGLIGIBLE = 1e-60  # probabilities below this are dropped at both ends, so that the convolution stays short

COMPARED = ["count_a", "count_b", "shared", "share_of_a", "jaccard", "expected_share_of_a", "chance_low", "chance_high"]
COMPARED += ["p_value", "expected_jaccard", "jaccard_low", "jaccard_high"]

Counts = tuple[int, int, int]  # units of a layer and site, units of the first set, units of the second set


def hypergeometric(units: int, first: int, second: int) -> tuple[int, np.ndarray]:
    """Distribution of the number of units shared by two sets placed at random among `units`.

    Built from the ratio of neighbouring terms, (K - k)(n - k) / ((k + 1)(N - K - n + k + 1)).

    Returns
    -------
    smallest number of shared units, and the probabilities of that number and the following ones
    """
    start = max(0, first + second - units)
    k = np.arange(start, min(first, second))
    ratios = (first - k) * (second - k) / ((k + 1.0) * (units - first - second + k + 1))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    terms = np.exp(logs - logs.max())
    return start, terms / terms.sum()


def _trimmed(start: int, pmf: np.ndarray) -> tuple[int, np.ndarray]:
    kept = np.flatnonzero(pmf > _NEGLIGIBLE)
    return start + int(kept[0]), pmf[kept[0] : kept[-1] + 1]


def shared_distribution(strata: Sequence[Counts]) -> tuple[int, np.ndarray]:
    """Distribution of the number of units that two randomly placed sets share.

    Parameters
    ----------
    strata : units and the counts of both sets, per layer and site

    Returns
    -------
    smallest number of shared units, and the probabilities of that number and the following ones
    """
    start, pmf = 0, np.ones(1)
    for units, first, second in strata:
        lowest, layer = _trimmed(*hypergeometric(units, first, second))
        start, pmf = _trimmed(start + lowest, np.convolve(pmf, layer))
    return start, pmf


def chance(strata: Sequence[Counts], *, shared: int) -> dict[str, float]:
    """Mean and 95 % range of the number of units shared by chance, and the probability of `shared` or more.

    Returns
    -------
    mean (exact), low, high : units; p_value : P(shared units >= `shared`), at least `SMALLEST_P`; jaccard : mean
    """
    start, pmf = shared_distribution(strata)
    below = np.cumsum(pmf)
    above = np.cumsum(pmf[::-1])[::-1]  # summed from the small end, so that the tail keeps its digits
    position = shared - start
    if position <= 0:
        p_value = 1.0
    else:
        p_value = float(above[position]) if position < len(pmf) else 0.0
    last = len(pmf) - 1
    counts = start + np.arange(len(pmf))
    together = sum(first + second for _units, first, second in strata)
    jaccards = np.divide(counts, together - counts, out=np.zeros(len(pmf)), where=together > counts)
    return {
        "mean": sum(first * second / units for units, first, second in strata),
        "low": start + min(int(np.searchsorted(below, 0.025)), last),
        "high": start + min(int(np.searchsorted(below, 0.975)), last),
        "p_value": min(max(p_value, SMALLEST_P), 1.0),
        "jaccard": float(pmf @ jaccards / pmf.sum()),
    }


def _jaccard(shared: float, together: int) -> float:
    """Jaccard index of two sets whose sizes add up to `together`."""
    return shared / (together - shared) if together > shared else 0.0


def compare(first: NeuronSet, second: NeuronSet) -> dict[str, float]:
    """Number of units that two sets share, observed and expected by chance.

    Returns
    -------
    the values named in `COMPARED`: count_a, count_b, shared, share_of_a and jaccard; for sets placed at random with
    their counts kept per layer and site, expected_share_of_a, chance_low, chance_high (95 % range of share_of_a),
    p_value (upper tail), expected_jaccard, jaccard_low and jaccard_high (95 % range). Shares of an empty set are 0.

    Raises
    ------
    CraneError : the sets are not of the same model
    """
    names = f"{first.language!r} and {second.language!r} ({first.method}, {first.budget})"
    if set(first.sites) != set(second.sites) or first.layers != second.layers:
        raise CraneError(f"overlap of {names}: their sites or layers differ; compare sets of the same model")
    strata, shared = [], 0
    for site in first.sites:
        width, others = first.widths[site], second.widths[site]
        if width != others:
            raise CraneError(
                f"overlap of {names}: {site} has {width} and {others} units; compare sets of the same model"
            )
        for own, other in zip(first.sites[site], second.sites[site], strict=True):
            strata.append((int(width), len(own), len(other)))
            shared += len(np.intersect1d(own, other))
    expected = chance(strata, shared=shared)
    count_a, count_b = first.count(), second.count()
    together, per_unit = count_a + count_b, 1 / count_a if count_a else 0.0
    return {
        "count_a": count_a,
        "count_b": count_b,
        "shared": shared,
        "share_of_a": shared * per_unit,
        "jaccard": _jaccard(shared, together),
        "expected_share_of_a": expected["mean"] * per_unit,
        "chance_low": expected["low"] * per_unit,
        "chance_high": expected["high"] * per_unit,
        "p_value": expected["p_value"],
        "expected_jaccard": expected["jaccard"],
        "jaccard_low": _jaccard(expected["low"], together),
        "jaccard_high": _jaccard(expected["high"], together),
    }


def as_neurons(item: NeuronSet) -> NeuronSet:
    """A set as neurons: a neuron belongs to a set of rows if its gate row or its up row does.

    Output rows of ``down`` are hidden dimensions, belong to no neuron, and are left out.

    Raises
    ------
    CraneError : the set has no gate or up rows
    """
    if set(item.sites) == {NEURON}:
        return item
    sites = [site for site in ("gate", "up") if site in item.sites]  # a down row is a hidden dimension
    if not sites:
        raise CraneError(
            f"{item.method}, {item.language!r}: has units at {sorted(item.sites)}, none belongs to a neuron"
        )
    layers = [np.unique(np.concatenate([item.sites[site][layer] for site in sites])) for layer in range(item.layers)]
    return replace(item, sites={NEURON: layers}, widths={NEURON: item.widths[sites[0]]})


def expected_intersection(sets: Sequence[NeuronSet], inside: Sequence[bool]) -> float:
    """Mean number of units that lie in exactly the marked sets, each set placed at random per layer and site.

    Parameters
    ----------
    sets : of the same model
    inside : True for each marked set
    """
    total = 0.0
    for site in sets[0].sites:
        width = sets[0].widths[site]
        shares = np.array([[len(indices) / width for indices in item.sites[site]] for item in sets])  # (sets, L)
        marked = np.array(inside)[:, None]
        total += float((np.where(marked, shares, 1 - shares).prod(axis=0) * width).sum())
    return total
