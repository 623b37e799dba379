"""Inputs of the tables of single neurons (`crane_study.uncertainty.ground_truth`), from a study."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.neurons import NeuronSet
from crane_lib.scores import UnitScores
from crane_lib.selection import row_sites
from crane_study.frames import read_frame
from crane_study.steps.ground_truth import neuron_sets
from crane_study.study import Study
from crane_study.uncertainty.ground_truth import Effects


def measured(study: Study) -> tuple[Effects, list[NeuronSet], pd.DataFrame]:
    """Effects of single neurons, the base model's sets of neurons at the budget, and documents under those sets."""
    effects = Effects.load(study.single_effects() / "effects.safetensors")
    sets = neuron_sets(study.selection("base").folder, budget=study.budget)
    return effects, sets, read_frame(study.whole_sets() / "documents.parquet")


def unit_scores(study: Study) -> UnitScores:
    """Scores of the base model's neurons under the objective that selects."""
    documents = study.activations("base")
    return UnitScores.read(
        study.relevance("base").folder,
        objective=study.objectives[0],
        languages=study.languages,
        documents=documents.folder if documents else None,
    )


def of_one_language(scores: UnitScores) -> dict[str, dict[str, np.ndarray]]:
    """Scores of a neuron that use one language only: name -> language -> (L, I)."""
    kurtosis = {}  # the larger of the rows that make a neuron's activation; rows that never varied are lowest
    for language, sites in scores.kurtosis.items():
        rows = np.stack([sites[site] for site in row_sites(sites) if site != "down"])
        kurtosis[language] = np.where(np.isnan(rows), -np.inf, rows).max(axis=0)
    return {
        "relevance": scores.neuron,
        "absolute_relevance": scores.absolute,
        "gradient_x_activation": scores.gradient,
        "share_of_firing_tokens": scores.firing,
        "magnitude": scores.magnitude,
        "output": scores.output,
        "kurtosis": kurtosis,
    }


def relevance_and_effect(effects: Effects, scores: UnitScores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Relevance of every neuron as a share of all absolute relevance, and its effect, by language  (L, I) each

    The effect is NaN for a neuron that was not ablated.
    """
    values = {}
    for language, found in effects.per_token().items():
        relevance, effect = scores.neuron[language], np.full(effects.shape, np.nan)
        effect.flat[effects.neurons] = found
        values[language] = (relevance / np.abs(relevance).sum(), effect)
    return values
