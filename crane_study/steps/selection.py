"""Stage: neuron sets of every rule, as published and at the study's budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crane_lib import selection
from crane_lib.methods import METHODS, PUBLISHED, PublishedRules
from crane_lib.neurons import write_neuron_sets
from crane_lib.scores import UnitScores

TOP_SHARE = 0.01  # of the rows, by kurtosis: the paper's second setting in open-ended generation


def sets_file(folder: Path, method: str, budget: str) -> Path:
    """Where the sets of a method at a budget lie."""
    return folder / f"{method}@{budget}.json"


def make_selection(
    folder: Path,
    *,
    relevance: Path,
    languages: list[str],
    objective: str,
    budget: float,
    kurtosis_threshold: float,
    lape_threshold_quantile: float,
    lape_share: float,
    random_draws: int,
    random_seed: int,
) -> None:
    """Write ``<method>@<budget>.json`` for every method; random sets hold one set a language and draw."""
    scores = UnitScores.read(relevance, objective=objective, languages=languages)
    at = f"{budget:g}"
    rules = PublishedRules(kurtosis_threshold, lape_threshold_quantile, lape_share)
    chosen = {(name, at): method.select(scores, budget=budget) for name, method in METHODS.items()}
    for name, method in METHODS.items():
        if method.published:
            chosen[name, PUBLISHED] = method.published(scores, rules)
    chosen["kurtosis", f"{TOP_SHARE:g}"] = METHODS["kurtosis"].select(scores, budget=TOP_SHARE)
    for (name, level), by_language in chosen.items():
        write_neuron_sets(sets_file(folder, name, level), scores.sets(name, level, by_language))
    for like, level in (("kurtosis", PUBLISHED), ("contrast", at)):
        name, sets = f"random_like_{like}", []
        for draw in range(random_draws):
            matched = {}
            for number, (language, sites) in enumerate(chosen[like, level].items()):
                generator = np.random.default_rng([random_seed, draw, number])
                matched[language] = selection.select_random_like(sites, scores.widths, generator=generator)
            sets += scores.sets(name, level, matched, draw=draw)
        write_neuron_sets(sets_file(folder, name, level), sets)
