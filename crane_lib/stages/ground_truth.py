"""Stage: the effect of zeroing every single neuron, on a sample of the held-out documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crane_lib.ablation import ablation_effects
from crane_lib.ground_truth import Effects
from crane_lib.models.loading import load_model, model_directory
from crane_lib.neurons import NeuronSet, read_all_sets
from crane_lib.progress import advancing, progress
from crane_lib.relevance.parts import parts_of
from crane_lib.stages.masking import Mask, measure_documents
from crane_lib.stages.texts import sampled_documents


def neuron_sets(selection: Path, *, budget: str) -> list[NeuronSet]:
    """Sets of neurons at a budget, of every method; sets of rows are left out, for no single neuron is a row."""
    return [item for item in read_all_sets(selection) if item.budget == budget and set(item.sites) == {"neuron"}]


def make_ground_truth(
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
    device: str,
    dtype: str,
    trust_remote_code: bool,
) -> None:
    """Write effects.safetensors, and rows.csv and documents.parquet of the sets as a whole on the same documents.

    Parameters
    ----------
    documents : a language
    budget : of the sets
    """
    network, tokenizer = load_model(
        model_directory(model), device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    tokens, numbers = sampled_documents(
        corpus, tokenizer, languages=languages, documents=documents, max_length=max_length, random_seed=random_seed
    )
    parts = parts_of(network)
    neurons = len(parts.layers) * parts.widths["neuron"]
    rise = {}
    with progress("Ablating every neuron", neurons * sum(len(found) for found in tokens.values())) as bar:
        for language, found in tokens.items():
            rise[language] = ablation_effects(network, found, token_budget=token_budget, progress=advancing(bar))
    predicted = {language: np.array([len(one) - 1 for one in found]) for language, found in tokens.items()}
    Effects(rise, predicted).save(folder / "effects.safetensors")
    masks: list[Mask] = [("", None), *(("base", item) for item in neuron_sets(selection, budget=budget))]
    measure_documents(
        folder,
        network,
        tokens,
        masks,
        labels={"profile": profile, "model": model_name},
        token_budget=token_budget,
        numbers=numbers,
    )
