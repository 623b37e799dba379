"""Every figure of the study.

A function takes frames or arrays and a path without suffix, writes a PNG, a PDF and their alt text, and returns the
caption.
"""

from crane_study.figures.effects import delta_matrices, dose_response, langspec_bars, transfer_figure
from crane_study.figures.ground_truth import captured_effects, relevance_against_effect
from crane_study.figures.models import guessers, training_loss
from crane_study.figures.open_ended import open_langspec_bars, score_matrices
from crane_study.figures.relevance import (
    heavy_tails,
    objective_agreement,
    relevance_by_layer,
    relevance_map,
    token_relevance,
    token_relevance_html,
    value_tails,
)
from crane_study.figures.selection import (
    jaccard_forest,
    overlap_matrix,
    rule_matrix,
    set_counts_figure,
    set_sites_figure,
    upset,
)

__all__ = [
    "captured_effects",
    "delta_matrices",
    "dose_response",
    "guessers",
    "heavy_tails",
    "jaccard_forest",
    "langspec_bars",
    "objective_agreement",
    "open_langspec_bars",
    "overlap_matrix",
    "relevance_against_effect",
    "relevance_by_layer",
    "relevance_map",
    "rule_matrix",
    "score_matrices",
    "set_counts_figure",
    "set_sites_figure",
    "token_relevance",
    "token_relevance_html",
    "training_loss",
    "transfer_figure",
    "upset",
    "value_tails",
]
