"""Tables of neuron sets: their sizes, and the units that languages or methods share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import TYPE_CHECKING

import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.neurons import NEURON, NeuronSet, read_all_sets
from crane_study.paper.lape_list import PUBLISHED_LIST
from crane_study.uncertainty.overlap import COMPARED, as_neurons, compare, expected_intersection

if TYPE_CHECKING:
    from crane_study.study import Study

_GROUP = ["model", "method", "budget", "random_seed"]


def _group(item: NeuronSet) -> tuple[str, str, str, int]:
    return item.model, item.method, item.budget, item.random_seed


def main_sets(study: Study) -> list[NeuronSet]:
    """The base model's sets of every method, as published and at the common budget, without random draws."""
    sets = read_all_sets(study.selection("base").folder)
    budgets = ("published", study.budget)
    return [item for item in sets if item.budget in budgets and not item.method.startswith("random")]


def published_list(study: Study, ours: list[NeuronSet]) -> tuple[list[NeuronSet], str]:
    """LAPE's published list among the sets of a study, and the reason why it has none; empty if it has one."""
    reason = "the profile names no published list (paper.lape_list)"
    if study.profile.paper.lape_list is not None and study.profile.rehearsal:
        reason = "a rehearsal's model is not the one of the list"
    return [item for item in ours if item.method == PUBLISHED_LIST], "" if study.listed else reason


def by_rule(sets: Sequence[NeuronSet]) -> dict[tuple[str, str], list[NeuronSet]]:
    """Sets by method and budget."""
    groups: dict[tuple[str, str], list[NeuronSet]] = {}
    for item in sets:
        groups.setdefault((item.method, item.budget), []).append(item)
    return groups


def overlaps(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Shared units (`compare`) of every ordered pair of languages, per model, method, budget and draw."""
    groups: dict[tuple[str, str, str, int], dict[str, NeuronSet]] = {}
    for item in sets:
        group = groups.setdefault(_group(item), {})
        if item.language in group:
            raise CraneError(f"neuron sets: two sets of {item.language!r} for {_group(item)}; keep one of them")
        group[item.language] = item
    records = [
        (*key, a, b, *compare(group[a], group[b]).values())
        for key, group in groups.items()
        for a, b in permutations(group, 2)
    ]
    return pd.DataFrame(records, columns=[*_GROUP, "language_a", "language_b", *COMPARED])


def reliability_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Share of a set that the same rule finds again on other documents (``reliability.csv``), and what chance gives.

    above_chance is the share beyond chance, of what is left beyond chance: 1 for equal sets, 0 for sets placed at
    random. Both sets are of disjoint parts of the documents, each documents_share of all.
    """
    chance = frame["expected_share_of_a"]
    table = frame.assign(above_chance=(frame["share_of_a"] - chance) / (1 - chance))
    columns = ["documents_share", "method", "budget", "language", "count_a", "share_of_a", "expected_share_of_a"]
    return table[[*columns, "chance_high", "above_chance", "p_value"]]


def set_counts(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Number of units of each set per layer and site, and their share of that layer's units."""
    records = [
        (*_group(item), item.language, site, layer, len(indices), len(indices) / item.widths[site])
        for item in sets
        for site, layers in item.sites.items()
        for layer, indices in enumerate(layers)
    ]
    return pd.DataFrame(records, columns=[*_GROUP, "language", "site", "layer", "count", "share"])


def agreement(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Shared units (`compare`) of every ordered pair of methods, per language, of sets of one model.

    Two sets of rows are compared as rows. If one set is of neurons, both are compared as neurons (`as_neurons`).
    """
    records = []
    for language in dict.fromkeys(item.language for item in sets):
        of_language = [item for item in sets if item.language == language]
        for first, second in permutations(of_language, 2):
            rows = NEURON not in first.sites and NEURON not in second.sites
            pair = (first, second) if rows else (as_neurons(first), as_neurons(second))
            names = (language, first.method, first.budget, second.method, second.budget)
            records.append((*names, "row" if rows else NEURON, *compare(*pair).values()))
    columns = ["language", "method_a", "budget_a", "method_b", "budget_b", "unit", *COMPARED]
    return pd.DataFrame(records, columns=columns)


def intersections(sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Number of units in exactly the sets of some languages, for every combination that has or expects any.

    The sets are of one model, method and budget. expected is the mean count for sets placed at random with their counts
    kept per layer and site.
    """
    languages = [item.language for item in sets]
    if len(set(languages)) != len(languages):
        raise CraneError(f"intersections: two sets of one language in {', '.join(languages)}; keep one of them")
    members = [set(item.flat().tolist()) for item in sets]
    records = []
    for inside in product((True, False), repeat=len(sets)):
        if not any(inside):
            continue
        chosen = [units for units, flag in zip(members, inside, strict=True) if flag]
        others = [units for units, flag in zip(members, inside, strict=True) if not flag]
        count = len(set.intersection(*chosen).difference(*others))
        expected = expected_intersection(sets, inside)
        codes = [language for language, flag in zip(languages, inside, strict=True) if flag]
        if count or expected >= 0.5:
            records.append(("+".join(codes), len(codes), count, expected))
    return pd.DataFrame(records, columns=["languages", "degree", "count", "expected"])
