"""Every figure of the study.

A function takes frames or arrays and a path without suffix, writes a PNG, a PDF and their alt text, and returns the
caption.
"""

# ruff: noqa: F401  (notebooks and tests take the figures from here)

from crane_study.figures.confounds import null_partitions
from crane_study.figures.effects import delta_matrices, dose_response, langspec_bars, transfer_figure
from crane_study.figures.ground_truth import captured_effects, relevance_against_effect
from crane_study.figures.heads import unit_damage, where_language_lives
from crane_study.figures.matched_damage import collateral_curves
from crane_study.figures.models import guessers, training_loss
from crane_study.figures.open_ended import open_langspec_bars, score_matrices
from crane_study.figures.questions import benchmark_accuracy
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
    reliability_figure,
    rule_matrix,
    set_counts_figure,
    set_sites_figure,
    upset,
)
from crane_study.figures.steering import steering_pairs, steering_strengths
