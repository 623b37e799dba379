"""Stages: the effect of zeroing every single neuron on a sample of the held-out documents, and of whole sets on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crane_lib.ablation import ablation_effects
from crane_lib.methods import METHODS, PUBLISHED
from crane_lib.models import load_model, model_directory
from crane_lib.neurons import NEURON, NeuronSet, read_all_sets
from crane_lib.overlap import as_neurons
from crane_lib.relevance.modules import parts_of
from crane_study.data.corpora import sampled_documents
from crane_study.progress import advancing, progress
from crane_study.steps.masks import Mask, measure_documents
from crane_study.uncertainty.ground_truth import Effects

_CACHED_TOKENS = 1024  # of a pass on a CPU: with more, what it computes falls out of the caches


def neuron_sets(selection: Path, *, budget: str) -> list[NeuronSet]:
    """Sets of neurons at a budget, of every method, and those that the released rule's rows belong to.

    A row of gate or up, zeroed, zeroes its neuron; rows of down are no neuron's and are left out.
    """
    sets = read_all_sets(selection)
    rows = [name for name, method in METHODS.items() if method.unit == "row"]
    released = [as_neurons(item) for item in sets if item.budget == PUBLISHED and item.method in rows]
    return released + [item for item in sets if item.budget == budget and set(item.sites) == {NEURON}]


def make_ablation(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    languages: list[str],
    documents: int,
    token_budget: int,
    max_length: int,
    random_seed: int,
    scratch: Path,
    **loading: Any,
) -> None:
    """Write effects.safetensors: the effect of every single neuron on every document.

    Parameters
    ----------
    documents : a language
    scratch : holds the languages that are done, so that a later call goes on
    loading : device, dtype and trust_remote_code
    """
    network, tokenizer = load_model(model_directory(model), **loading)
    tokens, _numbers = sampled_documents(
        corpus, tokenizer, languages=languages, documents=documents, max_length=max_length, random_seed=random_seed
    )
    if network.device.type == "cpu":
        token_budget = min(token_budget, _CACHED_TOKENS)
    parts = parts_of(network)
    neurons = len(parts.layers) * parts.widths[NEURON]
    found: dict[str, Effects] = {}
    with progress("Ablating every neuron", neurons * sum(len(sample) for sample in tokens.values())) as bar:
        for language, sample in tokens.items():
            file = scratch / f"{language}.safetensors"
            if file.is_file():
                bar.skip(neurons * len(sample))
            else:
                rise = ablation_effects(network, sample, token_budget=token_budget, progress=advancing(bar))
                Effects({language: rise}, {language: np.array([len(one) - 1 for one in sample])}).save(file)
            found[language] = Effects.load(file)
    rises = {language: effects.rise[language] for language, effects in found.items()}
    Effects(rises, {k: effects.tokens[k] for k, effects in found.items()}).save(folder / "effects.safetensors")


def make_whole_sets(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    selection: Path,
    profile: str,
    model_name: str,
    languages: list[str],
    budget: str,
    documents: int,
    token_budget: int,
    max_length: int,
    random_seed: int,
    **loading: Any,
) -> None:
    """Write rows.csv and documents.parquet of the sets as a whole, on the documents of `make_ablation`."""
    network, tokenizer = load_model(model_directory(model), **loading)
    tokens, numbers = sampled_documents(
        corpus, tokenizer, languages=languages, documents=documents, max_length=max_length, random_seed=random_seed
    )
    masks: list[Mask] = [("", None), *(("base", item) for item in neuron_sets(selection, budget=budget))]
    labels = {"profile": profile, "model": model_name}
    measure_documents(folder, network, tokens, masks, labels=labels, token_budget=token_budget, numbers=numbers)
