"""Stage: neuron sets of every rule, as published and at the study's budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crane_lib import selection
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_lib.relevance import Statistics
from crane_lib.selection import Chosen
from crane_lib.stages.relevance import GRADIENT, check_same_model, load_statistics

PUBLISHED = "published"


def sets_file(folder: Path, method: str, budget: str) -> Path:
    """Where the sets of a method at a budget lie."""
    return folder / f"{method}@{budget}.json"


def _means(statistics: dict[str, Statistics], site: str) -> dict[str, np.ndarray]:
    return {language: item.moments[site].mean.numpy() for language, item in statistics.items()}


def _kurtosis(statistics: dict[str, Statistics]) -> dict[str, dict[str, np.ndarray]]:
    return {
        language: {site: item.moments[site].excess_kurtosis().numpy() for site in selection.row_sites(item.moments)}
        for language, item in statistics.items()
    }


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
    statistics = load_statistics(relevance, seed, languages)
    model = check_same_model(statistics)
    neuron_means = _means(statistics, "neuron")
    gradient = _means(load_statistics(relevance, GRADIENT, languages), "neuron")
    kurtosis = _kurtosis(statistics)
    firing = {language: item.active.double().numpy() / item.tokens for language, item in statistics.items()}
    at = f"{budget:g}"
    chosen: dict[tuple[str, str], dict[str, Chosen]] = {
        ("kurtosis", PUBLISHED): selection.select_kurtosis(kurtosis, threshold=kurtosis_threshold),
        ("kurtosis", at): selection.select_kurtosis_budget(kurtosis, budget=budget),
        ("contrast", at): selection.select_contrast(neuron_means, budget=budget),
        ("contrast_mean", at): selection.select_contrast(neuron_means, budget=budget, against="mean"),
        ("contrast_abs", at): selection.select_contrast(_means(statistics, "abs_neuron"), budget=budget),
        ("lape", PUBLISHED): selection.select_lape(
            firing, threshold_quantile=lape_threshold_quantile, share=lape_share
        ),
        ("lape", at): selection.select_lape_budget(firing, budget=budget),
        ("activation_contrast", at): selection.select_contrast(firing, budget=budget),
        ("gradient_contrast", at): selection.select_contrast(gradient, budget=budget),
    }
    sample = statistics[languages[0]]
    widths = {site: sample.moments[site].shape[-1] for site in ("neuron", *selection.row_sites(sample.moments))}

    def neuron_set(method: str, level: str, language: str, sites: Chosen, draw: int = -1) -> NeuronSet:
        return NeuronSet(
            sites=sites,
            widths={site: widths[site] for site in sites},
            model=model,
            method=method,
            budget=level,
            language=language,
            random_seed=draw,
        )

    for (method, level), by_language in chosen.items():
        sets = [neuron_set(method, level, language, sites) for language, sites in by_language.items()]
        write_neuron_sets(sets_file(folder, method, level), sets)
    for like, level in (("kurtosis", PUBLISHED), ("contrast", at)):
        sets = []
        for draw in range(random_draws):
            for number, (language, sites) in enumerate(chosen[like, level].items()):
                generator = np.random.default_rng([random_seed, draw, number])
                matched = selection.select_random_like(sites, widths, generator=generator)
                sets.append(neuron_set(f"random_like_{like}", level, language, matched, draw))
        write_neuron_sets(sets_file(folder, f"random_like_{like}", level), sets)
