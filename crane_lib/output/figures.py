"""Every figure of the study: a function takes frames or arrays and a path without suffix, writes PNG and PDF, and
returns the caption.
"""

from crane_lib.output.figures_ablation import captured_effects, relevance_against_effect
from crane_lib.output.figures_agreement import jaccard_forest, rule_matrix, set_sites_figure, upset
from crane_lib.output.figures_controls import dose_response
from crane_lib.output.figures_effects import delta_matrices, langspec_bars
from crane_lib.output.figures_knowledge import guessers, training_loss
from crane_lib.output.figures_landscape import relevance_map, value_tails
from crane_lib.output.figures_open import open_langspec_bars, score_matrices
from crane_lib.output.figures_relevance import (
    heavy_tails,
    relevance_by_layer,
    seed_agreement,
    token_relevance,
    token_relevance_html,
)
from crane_lib.output.figures_sets import overlap_matrix, set_counts_figure
from crane_lib.output.figures_transfer import transfer_figure

__all__ = [
    "captured_effects",
    "delta_matrices",
    "dose_response",
    "guessers",
    "heavy_tails",
    "jaccard_forest",
    "langspec_bars",
    "open_langspec_bars",
    "overlap_matrix",
    "relevance_against_effect",
    "relevance_by_layer",
    "relevance_map",
    "rule_matrix",
    "score_matrices",
    "seed_agreement",
    "set_counts_figure",
    "set_sites_figure",
    "token_relevance",
    "token_relevance_html",
    "training_loss",
    "transfer_figure",
    "upset",
    "value_tails",
]
