"""Stage: neuron sets of every rule, as published and at the study's budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crane_lib import selection
from crane_lib.neurons import write_neuron_sets
from crane_lib.selection import Chosen
from crane_lib.stages.scores import UnitScores

PUBLISHED = "published"
TOP_SHARE = 0.01  # of the rows, by kurtosis: the paper's second setting in open-ended generation


def sets_file(folder: Path, method: str, budget: str) -> Path:
    """Where the sets of a method at a budget lie."""
    return folder / f"{method}@{budget}.json"


def make_selection(
    folder: Path,
    *,
    relevance: Path,
    languages: list[str],
    seed: str,
    budget: float,
    kurtosis_threshold: float,
    lape_threshold_quantile: float,
    lape_share: float,
    random_draws: int,
    random_seed: int,
) -> None:
    """Write ``<method>@<budget>.json`` for every method; random sets hold one set a language and draw."""
    scores = UnitScores.read(relevance, seed=seed, languages=languages)
    kurtosis, neuron, firing = scores.kurtosis, scores.neuron, scores.firing
    at = f"{budget:g}"
    chosen: dict[tuple[str, str], dict[str, Chosen]] = {
        ("kurtosis", PUBLISHED): selection.select_kurtosis(kurtosis, threshold=kurtosis_threshold),
        ("kurtosis", at): selection.select_kurtosis_budget(kurtosis, budget=budget),
        ("kurtosis", f"{TOP_SHARE:g}"): selection.select_kurtosis_budget(kurtosis, budget=TOP_SHARE),
        ("contrast", at): selection.select_contrast(neuron, budget=budget),
        ("contrast_mean", at): selection.select_contrast(neuron, budget=budget, against="mean"),
        ("contrast_abs", at): selection.select_contrast(scores.absolute, budget=budget),
        ("lape", PUBLISHED): selection.select_lape(
            firing, threshold_quantile=lape_threshold_quantile, share=lape_share
        ),
        ("lape", at): selection.select_lape_budget(firing, budget=budget),
        ("activation_contrast", at): selection.select_contrast(firing, budget=budget),
        ("gradient_contrast", at): selection.select_contrast(scores.gradient, budget=budget),
    }
    for (method, level), by_language in chosen.items():
        write_neuron_sets(sets_file(folder, method, level), scores.sets(method, level, by_language))
    for like, level in (("kurtosis", PUBLISHED), ("contrast", at)):
        method, sets = f"random_like_{like}", []
        for draw in range(random_draws):
            matched = {}
            for number, (language, sites) in enumerate(chosen[like, level].items()):
                generator = np.random.default_rng([random_seed, draw, number])
                matched[language] = selection.select_random_like(sites, scores.widths, generator=generator)
            sets += scores.sets(method, level, matched, draw=draw)
        write_neuron_sets(sets_file(folder, method, level), sets)
