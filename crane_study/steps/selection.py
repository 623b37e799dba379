"""Stage: neuron sets of every method, as published and at the study's budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crane_lib.methods import METHODS, PUBLISHED, TOP_ROWS, PublishedRules
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_lib.scores import UnitScores
from crane_lib.selection import Chosen, select_random_like, select_top_rows
from crane_study.profile import Selection

TOP_SHARE = 0.01  # of the rows, in the sets of TOP_ROWS


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
    documents: Path | None = None,
) -> None:
    """Write ``<method>@<budget>.json`` for every method; files of random sets hold one set per language and draw."""
    selection = Selection(**options)
    scores = UnitScores.read(relevance, objective=objective, languages=languages, documents=documents)
    rules = PublishedRules(selection.kurtosis_threshold, selection.lape.threshold_quantile, selection.lape.share)
    at = f"{selection.budget:g}"
    chosen = {(name, at): METHODS[name].select(scores, budget=selection.budget) for name in methods}
    for name in methods:
        published = METHODS[name].published
        if published is not None:
            chosen[name, PUBLISHED] = published(scores, rules)
    top_rows = {language: select_top_rows(sites, share=TOP_SHARE) for language, sites in scores.kurtosis.items()}
    chosen["kurtosis", TOP_ROWS] = top_rows
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
