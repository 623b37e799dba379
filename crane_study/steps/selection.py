"""Steps: neuron sets of every method, as published and at the study's budget, and how far they repeat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crane_lib.methods import METHODS, PUBLISHED, TOP_ROWS, PublishedRules
from crane_lib.neurons import NEURON, write_neuron_sets
from crane_lib.scores import UnitScores
from crane_lib.selection import Chosen, marked_indices, select_top_rows, top
from crane_study.paper.lape_list import PUBLISHED_LIST, read_lape_list
from crane_study.profile import Selection
from crane_study.uncertainty.overlap import as_neurons

TOP_SHARE = 0.01  # of the rows, in the sets of TOP_ROWS
EQUAL = "as_kurtosis"  # budget of LAPE's sets of as many neurons as kurtosis as published kills in the language
RELEASED_CONTROL = "random_like_released"  # rows drawn apart at every site, as the released code draws them
_FEW_DRAWS = 5  # of them, and of sets like LAPE's, on which no verdict rests


def sets_file(folder: Path, method: str, budget: str) -> Path:
    """File of the sets of a method at a budget."""
    return folder / f"{method}@{budget}.json"


def select_random_like(
    chosen: Chosen, widths: Mapping[str, int], *, generator: np.random.Generator, paired: bool = True
) -> Chosen:
    """Select random units, as many per layer and site as `chosen` has.

    The units of each layer are permuted. Gate and up rows get the same permutation, so that the two rows of a neuron
    stay together and as many neurons are killed as by `chosen`. Without `paired` each site is permuted by itself, as in
    the released code.
    """
    orders = {site: [generator.permutation(widths[site]) for _ in by_layer] for site, by_layer in chosen.items()}
    if paired and "gate" in orders:
        orders["up"] = orders["gate"]
    return {
        site: [np.sort(order[indices]) for order, indices in zip(orders[site], by_layer, strict=True)]
        for site, by_layer in chosen.items()
    }


def select_all(
    scores: UnitScores, methods: Iterable[str], selection: Selection
) -> dict[tuple[str, str], dict[str, Chosen]]:
    """Select the sets of every method at the common budget and as published: (method, budget) -> language -> set."""
    rules = PublishedRules(selection.kurtosis_threshold, selection.lape.threshold_quantile, selection.lape.share)
    chosen = {}
    for name in methods:
        chosen[name, f"{selection.budget:g}"] = METHODS[name].select(scores, budget=selection.budget)
        published = METHODS[name].published
        if published is not None:
            chosen[name, PUBLISHED] = published(scores, rules)
    return chosen


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
    """Write ``<method>@<budget>.json`` for every method; files of random sets hold one set per language and draw.

    `options` are those of the profile, and may have the path and the languages of a list that LAPE published.
    """
    selection = Selection(**{name: value for name, value in options.items() if name != PUBLISHED_LIST})
    scores = UnitScores.read(relevance, objective=objective, languages=languages, documents=documents)
    chosen = select_all(scores, methods, selection)
    top_rows = {language: select_top_rows(sites, share=TOP_SHARE) for language, sites in scores.kurtosis.items()}
    chosen["kurtosis", TOP_ROWS] = top_rows
    killed = scores.sets("kurtosis", PUBLISHED, chosen["kurtosis", PUBLISHED])
    lape = METHODS["lape"].scores(scores)
    chosen["lape", EQUAL] = {
        item.language: {"neuron": marked_indices(top(lape[item.language], as_neurons(item).count()))} for item in killed
    }
    for (name, level), by_language in chosen.items():
        write_neuron_sets(sets_file(folder, name, level), scores.sets(name, level, by_language))
    if (listed := options.get(PUBLISHED_LIST)) is not None:
        sizes: dict[str, Any] = {"layers": scores.layers, "width": scores.widths[NEURON], "model": scores.model}
        sets = read_lape_list(Path(listed["path"]), languages=listed["languages"], wanted=languages, **sizes)
        write_neuron_sets(sets_file(folder, PUBLISHED_LIST, PUBLISHED), sets)
    given: dict[str, Any] = {"scores": scores, "random_seed": random_seed}
    at = f"{selection.budget:g}"
    for like in (("kurtosis", PUBLISHED), ("contrast", at)):
        write_random_like(folder, chosen[like], like=like, draws=selection.random_draws, **given)
    for like in (("lape", PUBLISHED), ("lape", at)):
        if like in chosen:  # LAPE is among the profile's methods
            write_random_like(folder, chosen[like], like=like, draws=min(_FEW_DRAWS, selection.random_draws), **given)
    released = ("kurtosis", PUBLISHED)
    write_random_like(folder, chosen[released], like=released, draws=_FEW_DRAWS, paired=False, **given)


def write_random_like(
    folder: Path,
    chosen: Mapping[str, Chosen],
    *,
    like: tuple[str, str],
    scores: UnitScores,
    draws: int,
    random_seed: int,
    paired: bool = True,
) -> None:
    """Write random sets with as many units per layer and site as the sets `like` (method, budget) have.

    Each language and draw has a random seed of its own. Without `paired` they are the control of the released code.
    """
    name, sets = f"random_like_{like[0]}" if paired else RELEASED_CONTROL, []
    for draw in range(draws):
        generators = [np.random.default_rng([random_seed, draw, number]) for number in range(len(chosen))]
        matched = {
            language: select_random_like(sites, scores.widths, generator=generator, paired=paired)
            for (language, sites), generator in zip(chosen.items(), generators, strict=True)
        }
        sets += scores.sets(name, like[1], matched, draw=draw)
    write_neuron_sets(sets_file(folder, name, like[1]), sets)
