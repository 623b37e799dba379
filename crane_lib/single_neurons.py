"""What the notebook on the ground truth needs of a study: effects of single neurons, sets and scores beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.files import read_frame
from crane_lib.ground_truth import Effects
from crane_lib.neurons import NeuronSet
from crane_lib.stages.ground_truth import neuron_sets
from crane_lib.stages.scores import UnitScores
from crane_lib.study import Study


def measured(study: Study) -> tuple[Effects, list[NeuronSet], pd.DataFrame]:
    """Effects of single neurons, the base model's sets of neurons at the budget, and documents under those sets."""
    effects = Effects.load(study.single_effects() / "effects.safetensors")
    sets = neuron_sets(study.selection("base").folder, budget=study.budget)
    return effects, sets, read_frame(study.whole_sets() / "documents.parquet")


def unit_scores(study: Study) -> UnitScores:
    """Scores of the base model's neurons under the seed that selects."""
    return UnitScores.read(study.relevance("base").folder, seed=study.seeds[0], languages=study.languages)


def relevance_and_effect(effects: Effects, scores: UnitScores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By language the relevance of every neuron, as a share of all absolute relevance, and its effect  (L, I) each"""
    found = effects.per_token()
    return {
        language: (relevance / np.abs(relevance).sum(), found[language].reshape(relevance.shape))
        for language, relevance in scores.neuron.items()
    }
