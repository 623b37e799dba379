"""Stage: neuron sets of every method, as published and at the study's budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crane_lib.methods import METHODS, PUBLISHED, PublishedRules
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_lib.scores import UnitScores
from crane_lib.selection import Chosen, select_random_like
from crane_study.profile import Selection

TOP_SHARE = 0.01  # of the rows, by kurtosis: the paper's second setting in open-ended generation


def sets_file(folder: Path, method: str, budget: str) -> Path:
    """File of the sets of a method at a budget."""
    return folder / f"{method}@{budget}.json"


def make_selection(
    folder: Path,
    *,
    relevance: Path,
    languages: list[str],
    objective: str,
    methods: Iterable[str],
    options: dict[str, Any],
    random_seed: int,
) -> None:
    """Write ``<method>@<budget>.json`` for every method; files of random sets hold one set per language and draw."""
    selection = Selection(**options)
    scores = UnitScores.read(relevance, objective=objective, languages=languages)
    rules = PublishedRules(selection.kurtosis_threshold, selection.lape.threshold_quantile, selection.lape.share)
    at = f"{selection.budget:g}"
    chosen = {(name, at): METHODS[name].select(scores, budget=selection.budget) for name in methods}
    for name in methods:
        published = METHODS[name].published
        if published is not None:
            chosen[name, PUBLISHED] = published(scores, rules)
    chosen["kurtosis", f"{TOP_SHARE:g}"] = METHODS["kurtosis"].select(scores, budget=TOP_SHARE)
    for (name, level), by_language in chosen.items():
        write_neuron_sets(sets_file(folder, name, level), scores.sets(name, level, by_language))
    for like, level in (("kurtosis", PUBLISHED), ("contrast", at)):
        name = f"random_like_{like}"
        sets: list[NeuronSet] = []
        for draw in range(selection.random_draws):
            matched = _matched(chosen[like, level], scores.widths, seeds=(random_seed, draw))
            sets += scores.sets(name, level, matched, draw=draw)
        write_neuron_sets(sets_file(folder, name, level), sets)


def _matched(chosen: Mapping[str, Chosen], widths: Mapping[str, int], *, seeds: tuple[int, int]) -> dict[str, Chosen]:
    """Random sets with as many units per layer and site; each language has a random seed of its own."""
    return {
        language: select_random_like(sites, widths, generator=np.random.default_rng([*seeds, number]))
        for number, (language, sites) in enumerate(chosen.items())
    }
