"""Overlaps against a simulation of chance and against hand-made sets."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_lib.overlap import SMALLEST_P, chance, hypergeometric, overlaps, set_counts, shared_distribution
from tests.study.outputs.synthetic import make_sets

STRATA = [(40, 10, 12), (40, 0, 7), (16, 9, 11), (30, 5, 30)]


def neuron_set(language, layers, *, method="contrast", budget="0.1", width=10, seed=-1, model="base"):
    indices = [np.array(layer, dtype=np.int64) for layer in layers]
    return NeuronSet({"neuron": indices}, {"neuron": width}, model, method, budget, language, seed)


def simulate(strata, draws, generator):
    """Shared units of two sets drawn at random, by drawing them."""
    totals = np.zeros(draws, dtype=int)
    for units, first, second in strata:
        ranks_a = generator.random((draws, units)).argsort(axis=1) < first
        ranks_b = generator.random((draws, units)).argsort(axis=1) < second
        totals += (ranks_a & ranks_b).sum(axis=1)
    return totals


def test_distribution_agrees_with_simulation():
    start, pmf = shared_distribution(STRATA)
    totals = simulate(STRATA, 40_000, np.random.default_rng(0))
    seen = np.bincount(totals, minlength=start + len(pmf))[start:] / len(totals)
    assert len(seen) == len(pmf)
    assert np.abs(seen - pmf).max() < 0.01
    assert pmf.sum() == pytest.approx(1, abs=1e-12)


def test_chance_agrees_with_simulation():
    totals = simulate(STRATA, 40_000, np.random.default_rng(1))
    for shared in (12, 16, 19):
        found = chance(STRATA, shared=shared)
        assert found["p_value"] == pytest.approx((totals >= shared).mean(), abs=0.01)
    assert found["mean"] == 40 * 0 + 3.0 + 0 + 9 * 11 / 16 + 5.0
    assert totals.mean() == pytest.approx(found["mean"], abs=0.05)
    assert (found["low"], found["high"]) == tuple(np.quantile(totals, [0.025, 0.975], method="inverted_cdf"))


@pytest.mark.parametrize(
    ("units", "first", "second"), [(50, 20, 15), (12, 9, 8), (7, 0, 3), (640, 64, 640), (11008, 900, 880)]
)
def test_hypergeometric_agrees_with_scipy(units, first, second):
    start, pmf = hypergeometric(units, first, second)
    expected = hypergeom.pmf(np.arange(start, start + len(pmf)), units, first, second)
    assert (start, start + len(pmf) - 1) == (max(0, first + second - units), min(first, second))
    assert pmf == pytest.approx(expected, rel=1e-9)


def test_one_stratum_is_hypergeometric():
    found = chance([(50, 20, 15)], shared=9)
    assert found["p_value"] == pytest.approx(hypergeom.sf(8, 50, 20, 15), rel=1e-12)
    assert found["mean"] == 6.0


def test_chance_at_the_ends():
    assert chance(STRATA, shared=0)["p_value"] == 1.0
    everything = chance([(5, 5, 5), (4, 4, 2)], shared=7)
    assert everything == {"mean": 7.0, "low": 7, "high": 7, "p_value": 1.0, "jaccard": pytest.approx(7 / 9)}
    wide = [(11008, 900, 880)] * 96
    assert chance(wide, shared=20_000)["p_value"] == SMALLEST_P
    assert chance(wide, shared=6_900)["p_value"] > 0.5


def test_overlaps_of_hand_made_sets():
    sets = [
        neuron_set("en", [[0, 1, 2, 3], [5]]),
        neuron_set("zh", [[2, 3], [5, 6]]),
        neuron_set("en", [[0], []], method="lape"),
        neuron_set("zh", [[], []], method="lape"),
    ]
    frame = overlaps(sets).set_index(["method", "language_a", "language_b"])
    row = frame.loc[("contrast", "en", "zh")]
    assert (row["count_a"], row["count_b"], row["shared"]) == (5, 4, 3)
    assert row["share_of_a"] == pytest.approx(3 / 5)
    assert row["jaccard"] == pytest.approx(3 / 6)
    assert row["expected_share_of_a"] == pytest.approx((4 * 2 / 10 + 1 * 2 / 10) / 5)
    assert frame.loc[("contrast", "zh", "en"), "share_of_a"] == pytest.approx(3 / 4)
    assert frame.loc[("contrast", "zh", "en"), "p_value"] == row["p_value"]
    assert row["chance_low"] <= row["expected_share_of_a"] <= row["chance_high"]
    empty = frame.loc[("lape", "zh", "en")]
    assert (empty["share_of_a"], empty["jaccard"], empty["p_value"]) == (0.0, 0.0, 1.0)
    assert not frame.drop(columns=["model", "budget"]).isna().any().any()


def test_draws_are_compared_among_themselves():
    sets = [neuron_set(code, [[draw]], seed=draw) for draw in (0, 1) for code in ("en", "zh")]
    frame = overlaps(sets)
    assert list(frame["random_seed"]) == [0, 0, 1, 1]
    assert (frame["shared"] == 1).all()


def test_overlaps_refuses_two_sets_of_a_language():
    with pytest.raises(CraneError, match="two sets of 'en'"):
        overlaps([neuron_set("en", [[0]]), neuron_set("en", [[1]])])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (neuron_set("zh", [[0], [1]]), "other sites or layers"),
        (neuron_set("zh", [[0]], width=11), "10 and 11 wide"),
    ],
)
def test_overlaps_refuses_sets_of_two_models(other, message):
    with pytest.raises(CraneError, match=message):
        overlaps([neuron_set("en", [[0]]), other])


def test_no_sets_give_frames_with_all_columns():
    assert "p_value" in overlaps([]).columns
    assert "share" in set_counts([]).columns


def test_set_counts():
    frame = set_counts([neuron_set("en", [[0, 1], [], [4]])])
    assert list(frame["count"]) == [2, 0, 1]
    assert list(frame["share"]) == [0.2, 0.0, 0.1]
    assert list(frame["layer"]) == [0, 1, 2]
    pd.testing.assert_frame_equal(frame, set_counts([neuron_set("en", [[0, 1], [], [4]])]))


def test_the_chance_of_jaccard_is_that_of_all_placements():
    """Against every way to place the second set in each of two strata."""
    strata = [(5, 2, 2), (4, 1, 2)]
    first = [set(range(a)) for _units, a, _b in strata]
    placements = [list(combinations(range(units), b)) for units, _a, b in strata]
    shared = [len(first[0] & set(one)) + len(first[1] & set(two)) for one in placements[0] for two in placements[1]]
    jaccards = [count / (7 - count) for count in shared]
    assert chance(strata, shared=0)["jaccard"] == pytest.approx(np.mean(jaccards))


def test_jaccard_lies_in_its_chance_range_for_random_sets():
    random = [item for item in make_sets() if item.method == "random_like_contrast" and item.random_seed == 0]
    table = overlaps(random)
    assert (table["jaccard_low"] <= table["expected_jaccard"]).all()
    assert (table["expected_jaccard"] <= table["jaccard_high"]).all()
    assert table["jaccard"].between(table["jaccard_low"], table["jaccard_high"]).mean() >= 2 / 3
    apart = overlaps([item for item in make_sets() if item.method == "contrast"])
    assert (apart["jaccard"] < apart["jaccard_low"]).all()
