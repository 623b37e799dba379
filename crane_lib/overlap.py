"""How much the languages' neuron sets share, against chance.

Chance: each of two sets is placed at random, keeping its number of units in every layer and site. What they share in
one layer and site is then hypergeometric, and the whole a sum of independent hypergeometric counts, whose
distribution is the convolution of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.neurons import NEURON, NeuronSet

if TYPE_CHECKING:
    from crane_lib.neurons import NeuronSet

# Terms below this are dropped from both ends of a distribution, so that the sum over many wide layers stays short.
_NEGLIGIBLE = 1e-60
SMALLEST_P = 1e-50

Counts = tuple[int, int, int]  # units there are, units of one set, units of the other


def hypergeometric(units: int, first: int, second: int) -> tuple[int, np.ndarray]:
    """Distribution of the number of units shared by two sets placed at random among `units`.

    Built from the ratio of neighbouring terms, (K - k)(n - k) / ((k + 1)(N - K - n + k + 1)).

    Returns
    -------
    smallest number of shared units, and the probabilities of it and the numbers that follow
    """
    start = max(0, first + second - units)
    k = np.arange(start, min(first, second))
    ratios = (first - k) * (second - k) / ((k + 1.0) * (units - first - second + k + 1))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    terms = np.exp(logs - logs.max())
    return start, terms / terms.sum()


def _trimmed(start: int, pmf: np.ndarray) -> tuple[int, np.ndarray]:
    """The distribution without the negligible terms at its ends."""
    kept = np.flatnonzero(pmf > _NEGLIGIBLE)
    return start + int(kept[0]), pmf[kept[0] : kept[-1] + 1]


def shared_distribution(strata: Sequence[Counts]) -> tuple[int, np.ndarray]:
    """Distribution of the number of units that two randomly placed sets share.

    Parameters
    ----------
    strata : for every layer and site the units there are and the counts of both sets

    Returns
    -------
    smallest number of shared units, and the probabilities of it and the numbers that follow
    """
    start, pmf = 0, np.ones(1)
    for units, first, second in strata:
        lowest, layer = _trimmed(*hypergeometric(units, first, second))
        start, pmf = _trimmed(start + lowest, np.convolve(pmf, layer))
    return start, pmf


def chance(strata: Sequence[Counts], *, shared: int) -> dict[str, float]:
    """Mean and 95 % range of the units shared by chance, and how likely so many or more are.

    Returns
    -------
    mean (exact), low, high : units; p_value : P(shared units >= `shared`), never below `SMALLEST_P`; jaccard : mean
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


def _groups(sets: Sequence[NeuronSet]) -> Iterator[tuple[tuple[str, str, str, int], dict[str, NeuronSet]]]:
    """Sets of one model, method, budget and draw, by language, in the order in which they come."""
    found: dict[tuple[str, str, str, int], dict[str, NeuronSet]] = {}
    for item in sets:
        key = (item.model, item.method, item.budget, item.random_seed)
        group = found.setdefault(key, {})
        if item.language in group:
            raise CraneError(f"neuron sets: two sets of {item.language!r} for {key}; keep one of them")
        group[item.language] = item
    yield from found.items()


def _strata(first: NeuronSet, second: NeuronSet) -> tuple[list[Counts], int]:
    """Counts of both sets in every layer and site, and the number of units they share."""
    names = f"{first.language!r} and {second.language!r} ({first.method}, {first.budget})"
    if set(first.sites) != set(second.sites) or first.layers != second.layers:
        raise CraneError(f"overlap of {names}: the sets have other sites or layers; were they made for one model?")
    strata, shared = [], 0
    for site in first.sites:
        if first.widths[site] != second.widths[site]:
            raise CraneError(f"overlap of {names}: {site} is {first.widths[site]} and {second.widths[site]} wide")
        for own, other in zip(first.sites[site], second.sites[site], strict=True):
            strata.append((int(first.widths[site]), len(own), len(other)))
            shared += len(np.intersect1d(own, other))
    return strata, shared


def _jaccard(shared: float, together: int) -> float:
    """Jaccard index of two sets that have `together` units when each is counted by itself."""
    return shared / (together - shared) if together > shared else 0.0


def compare(first: NeuronSet, second: NeuronSet) -> dict[str, float]:
    """What two sets share, and what they would share by chance.

    Returns
    -------
    count_a, count_b, shared, share_of_a, jaccard and, for sets placed at random with their counts kept in every layer
    and site: expected_share_of_a, chance_low, chance_high (95 % range of share_of_a), expected_jaccard, jaccard_low,
    jaccard_high (95 % range) and p_value (upper tail). Shares of an empty set are 0.
    """
    strata, shared = _strata(first, second)
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


COMPARED = ["count_a", "count_b", "shared", "share_of_a", "jaccard", "expected_share_of_a", "chance_low", "chance_high"]
COMPARED += ["p_value", "expected_jaccard", "jaccard_low", "jaccard_high"]


def overlaps(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Shared units of every ordered pair of languages of a model, method, budget and draw.

    Returns
    -------
    frame with model, method, budget, random_seed, language_a, language_b and the values of `compare`

    Raises
    ------
    CraneError : a language has two sets in a group, or two sets are not of one model
    """
    records = []
    for (model, method, budget, random_seed), group in _groups(sets):
        named = {"model": model, "method": method, "budget": budget, "random_seed": random_seed}
        for a, b in permutations(group, 2):
            records.append({**named, "language_a": a, "language_b": b, **compare(group[a], group[b])})
    columns = ["model", "method", "budget", "random_seed", "language_a", "language_b", *COMPARED]
    return pd.DataFrame(records, columns=columns)


def set_counts(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Number of units of each set in every layer and site.

    Returns
    -------
    frame with model, method, budget, random_seed, language, site, layer, count and share (of the site's units there)
    """
    records = [
        {
            "model": item.model,
            "method": item.method,
            "budget": item.budget,
            "random_seed": item.random_seed,
            "language": item.language,
            "site": site,
            "layer": layer,
            "count": len(indices),
            "share": len(indices) / item.widths[site],
        }
        for item in sets
        for site, layers in item.sites.items()
        for layer, indices in enumerate(layers)
    ]
    columns = ["model", "method", "budget", "random_seed", "language", "site", "layer", "count", "share"]
    return pd.DataFrame(records, columns=columns)


_OF_NEURON = ("gate", "up")  # the rows that make a neuron's activation; a down row is a hidden dimension


def as_neurons(item: NeuronSet) -> NeuronSet:
    """A set as neurons: a neuron belongs to a set of rows if its gate row or its up row does.

    Output rows of ``down`` are hidden dimensions, belong to no neuron, and are left out.
    """
    if set(item.sites) == {NEURON}:
        return item
    sites = [site for site in _OF_NEURON if site in item.sites]
    if not sites:
        raise CraneError(
            f"{item.method}, {item.language!r}: has units at {sorted(item.sites)}, none belongs to a neuron"
        )
    layers = [np.unique(np.concatenate([item.sites[site][layer] for site in sites])) for layer in range(item.layers)]
    return replace(item, sites={NEURON: layers}, widths={NEURON: item.widths[sites[0]]})


def agreement(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """What every ordered pair of rules shares, a language.

    Two sets of rows are compared as rows; where one set is of neurons, both are compared as neurons (`as_neurons`).

    Parameters
    ----------
    sets : of one model, one a method, budget and language

    Returns
    -------
    frame with language, method_a, budget_a, method_b, budget_b, unit (neuron or row) and the values of
    `crane_lib.overlap.compare`
    """
    records = []
    for language in dict.fromkeys(item.language for item in sets):
        of_language = [item for item in sets if item.language == language]
        for first, second in permutations(of_language, 2):
            rows = NEURON not in first.sites and NEURON not in second.sites
            pair = (first, second) if rows else (as_neurons(first), as_neurons(second))
            named = {
                "language": language,
                "method_a": first.method,
                "budget_a": first.budget,
                "method_b": second.method,
                "budget_b": second.budget,
                "unit": "row" if rows else NEURON,
            }
            records.append({**named, **compare(*pair)})
    columns = ["language", "method_a", "budget_a", "method_b", "budget_b", "unit", *COMPARED]
    return pd.DataFrame(records, columns=columns)


def intersections(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """How many units lie in exactly these languages' sets, for every combination of languages that has or expects any.

    Parameters
    ----------
    sets : of one model, method and budget, one a language

    Returns
    -------
    frame with languages (codes joined by ``+``), degree (how many), count and expected: the mean count for sets
    placed at random with their counts kept in every layer and site
    """
    languages = [item.language for item in sets]
    if len(set(languages)) != len(languages):
        raise CraneError(f"intersections: two sets of one language; seen: {', '.join(languages)}")
    members = [set(item.flat().tolist()) for item in sets]
    records = []
    for inside in product((True, False), repeat=len(sets)):
        if not any(inside):
            continue
        chosen = [units for units, flag in zip(members, inside, strict=True) if flag]
        others = [units for units, flag in zip(members, inside, strict=True) if not flag]
        count = len(set.intersection(*chosen).difference(*others))
        expected = _expected(sets, inside)
        codes = [language for language, flag in zip(languages, inside, strict=True) if flag]
        if count or expected >= 0.5:
            records.append(("+".join(codes), len(codes), count, expected))
    return pd.DataFrame(records, columns=["languages", "degree", "count", "expected"])


def _expected(sets: Sequence[NeuronSet], inside: Sequence[bool]) -> float:
    """Mean number of units in exactly the sets marked, each placed at random within its layers and sites."""
    total = 0.0
    for site in sets[0].sites:
        width = sets[0].widths[site]
        shares = np.array([[len(indices) / width for indices in item.sites[site]] for item in sets])  # (sets, L)
        marked = np.array(inside)[:, None]
        total += float((np.where(marked, shares, 1 - shares).prod(axis=0) * width).sum())
    return total
