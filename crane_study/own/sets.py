"""Neuron sets of a user's own model: selected from statistics, and checked against the model that they are used on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.methods import Method
from crane_lib.neurons import HEAD, NEURON, NeuronSet, read_neuron_sets
from crane_study.own.statistics_folder import read_info, read_units
from crane_study.uncertainty.overlap import as_neurons, compare

if TYPE_CHECKING:
    from crane_lib.scores import UnitScores

_TOLD = ("model", "tokenizer", "corpora", "objective", "rule")  # of the statistics, kept in the notes of a set


def select_sets(
    folder: Path, method: Method, budget: float, *, unit: str = NEURON
) -> tuple[list[NeuronSet], pd.DataFrame]:
    """Select a method's set of neurons or heads of every language from a folder of statistics.

    Returns
    -------
    the sets, whose notes say what they were selected on, and the scores of all units: columns language, site, layer,
    index, score, selected
    """
    info, units = read_info(folder), read_units(folder, site=unit)
    scores = method.scores(units)
    chosen = method.choose(scores, budget=budget, site=unit)
    notes = {name: info[name] for name in _TOLD}
    sets = [
        NeuronSet(item.sites, item.widths, item.model, item.method, item.budget, item.language, notes=notes)
        for item in units.sets(method.name, f"{budget:g}", chosen)
    ]
    return sets, score_table(scores, sets, unit=unit)


def score_table(scores: Any, sets: Sequence[NeuronSet], *, unit: str = NEURON) -> pd.DataFrame:
    """Scores of all units by language, with a mark at those that were selected."""
    parts = []
    for item in sets:
        of_language = scores[item.language]
        by_site = of_language if isinstance(of_language, dict) else {unit: of_language}
        for site, values in by_site.items():
            layer, index = np.indices(values.shape)
            marked = np.zeros(values.shape, dtype=bool)
            for number, indices in enumerate(item.sites.get(site, ())):
                marked[number, indices] = True
            columns = {
                "layer": layer.ravel(),
                "index": index.ravel(),
                "score": values.ravel(),
                "selected": marked.ravel(),
            }
            parts.append(pd.DataFrame({"language": item.language, "site": site, **columns}))
    return pd.concat(parts, ignore_index=True)


def overlap_table(first: Sequence[NeuronSet], second: Sequence[NeuronSet]) -> pd.DataFrame:
    """Neurons shared by every two sets, one of each side, beside what chance gives.

    Raises
    ------
    CraneError : the sets are of models of different sizes
    """
    first, second = ([item if set(item.sites) == {HEAD} else as_neurons(item) for item in s] for s in (first, second))
    sizes = {(item.layers, *item.widths.values()) for item in [*first, *second]}
    if len(sizes) > 1:
        raise CraneError(f"the sets are of models of different sizes (layers and width): {sorted(sizes)}")
    rows = [{"first": _name(a), "second": _name(b), **compare(a, b)} for a in first for b in second]
    return pd.DataFrame(rows)


def _name(item: NeuronSet) -> str:
    draw = f" draw {item.random_seed}" if item.random_seed >= 0 else ""
    return f"{item.method} {item.budget} {item.language}{draw}"


def sets_for(path: Path, *, weights: str, tokenizer: str) -> list[NeuronSet]:
    """Read sets, and check that they were selected on these weights and this tokenizer.

    Raises
    ------
    CraneError : the sets are of another model or tokenizer
    """
    sets = read_neuron_sets(path)
    for item in sets:
        if item.model and item.model != weights:
            made_for = item.notes.get("model", item.model)
            raise CraneError(f"{path}: was selected on {made_for}, whose weights differ from this model's")
        if item.notes.get("tokenizer", tokenizer) != tokenizer:
            raise CraneError(f"{path}: was selected with another tokenizer than this model's")
    return sets


def marked_neurons(sets: Sequence[NeuronSet], shape: tuple[int, int]) -> np.ndarray:
    """Mark the neurons (L, I) that any of the sets has or kills."""
    marked = np.zeros(shape, dtype=bool)
    for item in map(as_neurons, sets):
        for layer, indices in enumerate(item.sites["neuron"]):
            marked[layer, indices] = True
    return marked


def missing_needs(units: UnitScores, methods: Sequence[Method]) -> None:
    """Refuse methods whose values of single documents are not among the statistics."""
    for method in methods:
        if not units.has(method.needs):
            raise CraneError(
                f"method {method.name}: needs {method.needs} of single documents, which a study makes "
                f"(selection.methods of a profile), not crane relevance"
            )
