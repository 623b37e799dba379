"""Which rules agree: what the sets of different methods share for one language, against chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.neurons import NEURON, NeuronSet
from crane_lib.overlap import COMPARED, compare

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
