"""Overlaps of the released rule's sets beside the paper's, and both beside chance."""

import numpy as np
import pandas as pd
import pytest

from crane_lib.neurons import NeuronSet
from crane_study.paper.comparison import overlaps_beside
from crane_study.paper.tolerances import load_tolerances
from crane_study.tables.overlap import overlaps

TOLERANCES = load_tolerances()
# Chance is of a set shaped like the second: Vietnamese has four times as many units as English, Chinese twice.
OVERLAPS = pd.DataFrame(
    [
        ("en", "vi", 0.30, 0.36, 0.32, 0.40),
        ("vi", "en", 0.25, 0.09, 0.07, 0.11),
        ("en", "zh", 0.30, 0.18, 0.15, 0.21),
        ("zh", "en", 0.10, 0.09, 0.06, 0.12),
        ("zh", "vi", 0.25, 0.36, 0.34, 0.38),
        ("vi", "zh", np.nan, np.nan, np.nan, np.nan),
    ],
    columns=["language_a", "language_b", "share_of_a", "expected_share_of_a", "chance_low", "chance_high"],
)
PAIRS = ["language_a", "language_b"]


def compared(table=OVERLAPS, *, same_model):
    found = overlaps_beside(table, with_random=0.09, tolerances=TOLERANCES, same_model=same_model)
    return found.set_index(PAIRS)


def test_overlaps_of_the_papers_model_are_held_against_values():
    table = compared(same_model=True)
    within = table["within"].to_dict()
    assert within[("vi", "en")] == within[("en", "random")] == "yes"
    assert within[("en", "zh")] == within[("zh", "en")] == "no"
    assert within[("vi", "zh")] == "NOT RUN"
    assert table.loc[("en", "random"), "ours"] == 0.09
    assert table.loc[("en", "random"), "our_direction"] == ""
    assert table.loc[("zh", "vi"), ["expected_share_of_a", "chance_low", "chance_high"]].tolist() == [0.36, 0.34, 0.38]


def test_ours_are_held_against_chance_for_a_set_shaped_like_the_second():
    """English has more of Vietnamese than of itself in a random set of its size, and less than by chance."""
    expected = {
        ("en", "vi"): "less than chance",
        ("vi", "en"): "more than chance",
        ("en", "zh"): "more than chance",
        ("zh", "en"): "no clear difference",
        ("zh", "vi"): "less than chance",
        ("vi", "zh"): "NOT RUN",
    }
    assert compared(same_model=False)["our_direction"].to_dict() == expected
    values = compared(same_model=True)["our_direction"].drop(("en", "random"))
    assert values.to_dict() == expected


def test_only_english_has_a_published_chance():
    table = compared(same_model=False)
    assert not {"published", "ours"} & set(table)
    assert table["published_direction"].to_dict() == {
        ("en", "vi"): "more than chance",
        ("vi", "en"): "not published",
        ("en", "zh"): "more than chance",
        ("zh", "en"): "not published",
        ("zh", "vi"): "not published",
        ("vi", "zh"): "not published",
    }
    assert table["same_direction"].to_dict() == {
        ("en", "vi"): "no",
        ("vi", "en"): "not published",
        ("en", "zh"): "yes",
        ("zh", "en"): "not published",
        ("zh", "vi"): "not published",
        ("vi", "zh"): "NOT RUN",
    }


@pytest.mark.parametrize("edge", ["chance_low", "chance_high"])
def test_a_share_at_the_edge_of_chance_is_no_clear_difference(edge):
    table = OVERLAPS.assign(share_of_a=OVERLAPS[edge])
    assert compared(table, same_model=False)["our_direction"].iloc[0] == "no clear difference"


def test_sets_of_very_different_sizes():
    """By chance a large set has most of a small one: sharing half of it is less than chance, though far from little."""
    small, large = np.arange(10), np.arange(5, 95)
    sets = [
        NeuronSet({"neuron": [indices]}, {"neuron": 100}, "m", "kurtosis", "published", language)
        for language, indices in (("en", small), ("vi", large))
    ]
    table = compared(overlaps(sets), same_model=False)["our_direction"]
    assert table[("en", "vi")] == table[("vi", "en")] == "less than chance"
    assert set(table.drop([("en", "vi"), ("vi", "en")])) == {"NOT RUN"}


def test_without_sets_nothing_is_compared():
    assert set(compared(overlaps([]), same_model=False)["same_direction"]) == {"NOT RUN"}
