"""Steps: effects of zeroing single neurons, all or a sample, and whole sets, on a sample of the held-out documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crane_lib.ablation import ablation_effects
from crane_lib.methods import METHODS, PUBLISHED
from crane_lib.neurons import NEURON, NeuronSet, read_all_sets
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import UnitScores
from crane_study.options import DocumentOptions
from crane_study.progress import advancing, progress
from crane_study.steps.masks import Mask, held_out, measure_documents
from crane_study.uncertainty.ground_truth import Effects
from crane_study.uncertainty.neuron_sample import SAMPLE_FILE, NeuronSample, draw_neurons, sampling_sizes
from crane_study.uncertainty.overlap import as_neurons

_CACHED_TOKENS = 1024  # of one pass on a CPU: results of larger passes do not fit into the caches


def neuron_sets(selection: Path, *, budget: str) -> list[NeuronSet]:
    """Return the sets of neurons of every method at a budget, and the neurons of the released method's rows.

    Zeroing a row of gate or up zeroes its neuron; rows of down belong to no neuron and are left out.
    """
    sets = read_all_sets(selection)
    rows = [name for name, method in METHODS.items() if method.unit == "row"]
    released = [as_neurons(item) for item in sets if item.budget == PUBLISHED and item.method in rows]
    return released + [item for item in sets if item.budget == budget and set(item.sites) == {NEURON}]


def make_neuron_sample(
    folder: Path,
    *,
    relevance: Path,
    selection: Path,
    objective: str,
    languages: list[str],
    budget: str,
    options: dict[str, int],
) -> None:
    """Write sample.safetensors: which neurons to ablate, `options` being their number and the random seed."""
    scores = UnitScores.read(relevance, objective=objective, languages=languages)
    sizes = sampling_sizes(scores, _selected_sets(selection, budget=budget))
    draw_neurons(sizes, options["sample"], random_seed=options["random_seed"]).save(folder / SAMPLE_FILE)


def _selected_sets(selection: Path, *, budget: str) -> list[NeuronSet]:
    """Sets of `neuron_sets` that are not drawn at random."""
    return [item for item in neuron_sets(selection, budget=budget) if not item.method.startswith("random")]


def make_ablation(
    folder: Path, *, corpus: Path, model: Path, options: DocumentOptions, scratch: Path, sample: Path | None = None
) -> None:
    """Write effects.safetensors: the effect of every single neuron, or of those of a sample, on every document.

    Finished languages are kept in `scratch`, from which a later call continues.
    """
    network, tokenizer = options.loading.load(model)
    tokens, _numbers = held_out(corpus, tokenizer, options)
    token_budget = options.token_budget
    if network.device.type == "cpu":
        token_budget = min(token_budget, _CACHED_TOKENS)
    parts = parts_of(network)
    drawn = None if sample is None else NeuronSample.load(sample / SAMPLE_FILE)
    chosen = None if drawn is None else drawn.draws > 0
    count = len(parts.layers) * parts.widths[NEURON] if chosen is None else int(chosen.sum())
    given: dict[str, Any] = {"token_budget": token_budget, "neurons": chosen}
    found: dict[str, Effects] = {}
    with progress("Ablating single neurons", count * sum(len(documents) for documents in tokens.values())) as bar:
        for language, documents in tokens.items():
            file = scratch / f"{language}.safetensors"
            if file.is_file():
                bar.skip(count * len(documents))
            else:
                rise = ablation_effects(network, documents, progress=advancing(bar), **given)
                Effects({language: rise}, {language: np.array([len(one) - 1 for one in documents])}, drawn).save(file)
            found[language] = Effects.load(file)
    rises = {language: effects.rise[language] for language, effects in found.items()}
    Effects(rises, {k: effects.tokens[k] for k, effects in found.items()}, drawn).save(folder / "effects.safetensors")


def make_whole_sets(
    folder: Path, *, corpus: Path, model: Path, selection: Path, options: DocumentOptions, budget: str
) -> None:
    """Write rows.csv and documents.parquet of the selected sets as a whole, on the documents of `make_ablation`."""
    network, tokenizer = options.loading.load(model)
    tokens, numbers = held_out(corpus, tokenizer, options)
    masks: list[Mask] = [("", None), *(("base", item) for item in _selected_sets(selection, budget=budget))]
    measure_documents(folder, network, tokens, masks, options=options, numbers=numbers)
