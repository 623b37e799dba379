"""Step: attention heads beside MLP neurons, masked at equal shares of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from crane_lib.methods import METHODS
from crane_lib.neurons import HEAD, NEURON, NeuronSet
from crane_lib.parallel import rank
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import UnitScores
from crane_lib.selection import budget_count, marked_indices, top
from crane_study.frames import read_frame, write_frame
from crane_study.options import DocumentOptions
from crane_study.steps.confounds import as_masks
from crane_study.steps.masks import held_out, measure_documents

UNITS = (NEURON, HEAD)
SHARES = (0.01, 0.03, 0.1, 0.25, 0.5, 0.75)  # of the heads
COMPARED = ("contrast", "penalized")
RANDOM = "random_global"


def unit_shares(network: PreTrainedModel) -> dict[str, float]:
    """Share of one neuron, and of one head, in all weights of the layers' linear modules.

    Keys and values that several heads read are shared out among them.
    """
    parts = parts_of(network)
    layer = parts.layers[0]
    projections: Any = [module for module, _layout in layer.projections]
    weights = {
        NEURON: sum(rows.weight().numel() for rows in layer.rows.values()),
        HEAD: layer.output.weight().numel() + sum(module.weight.numel() for module in projections),
    }
    total = len(parts.layers) * sum(weights.values())
    return {unit: weights[unit] / (parts.widths[unit] * total) for unit in UNITS}


def counts_of_doses(shares: dict[str, float], heads: int) -> dict[str, dict[str, int]]:
    """Number of neurons and of heads at every dose, which is named by the share of the weights that its heads hold."""
    of_heads = dict.fromkeys(budget_count(share, heads) for share in SHARES)
    named = {f"{count * shares[HEAD]:.4g}": count for count in of_heads}
    neurons = {name: max(1, round(count * shares[HEAD] / shares[NEURON])) for name, count in named.items()}
    return {NEURON: neurons, HEAD: named}


def dose_sets(units: UnitScores, counts: dict[str, int], *, draws: int, random_seed: int) -> list[NeuronSet]:
    """Sets of every method and random draw, of so many units at every dose; a draw's sets lie within one another."""
    scores = {(name, -1): METHODS[name].scores(units) for name in COMPARED}
    for draw in range(draws):
        drawn = np.random.default_rng([random_seed, draw]).random((units.layers, units.widths[units.site]))
        scores[RANDOM, draw] = dict.fromkeys(units.neuron, drawn)
    return [
        item
        for (name, draw), found in scores.items()
        for dose, count in counts.items()
        for item in units.sets(
            name, dose, {k: {units.site: marked_indices(top(own, count))} for k, own in found.items()}, draw=draw
        )
    ]


def make_heads(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    relevance: Path,
    objective: str,
    draws: int,
    options: DocumentOptions,
    scratch: Path | None = None,
) -> None:
    """Write for neurons and for heads a folder as `measure_documents` does.

    In masks.csv, killed is the number of units that a mask zeroes, killed_share their share of the layers' weights.
    """
    network, tokenizer = options.loading.load(model)
    documents, numbers = held_out(corpus, tokenizer, options)
    shares, parts = unit_shares(network), parts_of(network)
    counts = counts_of_doses(shares, heads=len(parts.layers) * parts.widths[HEAD])
    for unit in UNITS:
        units = UnitScores.read(relevance, objective=objective, languages=options.languages, site=unit)
        sets = dose_sets(units, counts[unit], draws=draws, random_seed=options.random_seed)
        measure_documents(
            folder / unit,
            network,
            documents,
            as_masks(sets, options.model_name),
            options=options,
            numbers=numbers,
            scratch=None if scratch is None else scratch / unit,
        )
        if rank() == 0:
            masks = read_frame(folder / unit / "masks.csv", texts=["budget"])
            zeroed = np.array([item.count() for item in sets])
            write_frame(folder / unit / "masks.csv", masks.assign(killed=zeroed, killed_share=zeroed * shares[unit]))
