"""Overlaps compared with a simulation of chance, with SciPy and with counts by hand."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_study.uncertainty.overlap import (
    COMPARED,
    SMALLEST_P,
    as_neurons,
    chance,
    compare,
    expected_intersection,
    hypergeometric,
    shared_distribution,
)

STRATA = [(40, 10, 12), (40, 0, 7), (16, 9, 11), (30, 5, 30)]


def units(*, language="en", width=10, **sites):
    widths = {"neuron": width, "gate": width, "up": width, "down": 4}
    layers = {site: [np.array(layer, dtype=int) for layer in found] for site, found in sites.items()}
    return NeuronSet(layers, {site: widths[site] for site in sites}, language=language)


def neuron_set(*layers, **options):
    return units(neuron=layers, **options)


def test_chance_agrees_with_simulation():
    start, pmf = shared_distribution(STRATA)
    generator = np.random.default_rng(1)
    totals = np.zeros(40_000, dtype=int)  # shared units of two sets drawn at random
    for number, first, second in STRATA:
        ranks_a = generator.random((len(totals), number)).argsort(axis=1) < first
        ranks_b = generator.random((len(totals), number)).argsort(axis=1) < second
        totals += (ranks_a & ranks_b).sum(axis=1)
    seen = np.bincount(totals, minlength=start + len(pmf))[start:] / len(totals)
    assert len(seen) == len(pmf)
    assert np.abs(seen - pmf).max() < 0.01
    assert pmf.sum() == pytest.approx(1, abs=1e-12)
    for shared in (12, 16, 19):
        found = chance(STRATA, shared=shared)
        assert found["p_value"] == pytest.approx((totals >= shared).mean(), abs=0.01)
    assert found["mean"] == 40 * 0 + 3.0 + 0 + 9 * 11 / 16 + 5.0
    assert totals.mean() == pytest.approx(found["mean"], abs=0.05)
    assert (found["low"], found["high"]) == tuple(np.quantile(totals, [0.025, 0.975], method="inverted_cdf"))


@pytest.mark.parametrize(
    ("units", "first", "second"), [(50, 20, 15), (12, 9, 8), (7, 0, 3), (640, 64, 640), (11008, 900, 880)]
)
def test_one_stratum_agrees_with_scipy(units, first, second):
    start, pmf = hypergeometric(units, first, second)
    expected = hypergeom.pmf(np.arange(start, start + len(pmf)), units, first, second)
    assert (start, start + len(pmf) - 1) == (max(0, first + second - units), min(first, second))
    assert pmf == pytest.approx(expected, rel=1e-9)
    shared = start + len(pmf) // 2
    found = chance([(units, first, second)], shared=shared)
    assert found["p_value"] == pytest.approx(hypergeom.sf(shared - 1, units, first, second), rel=1e-9)
    assert found["mean"] == first * second / units


def test_chance_at_the_ends():
    assert chance(STRATA, shared=0)["p_value"] == 1.0
    everything = chance([(5, 5, 5), (4, 4, 2)], shared=7)
    assert everything == {"mean": 7.0, "low": 7, "high": 7, "p_value": 1.0, "jaccard": pytest.approx(7 / 9)}
    wide = [(11008, 900, 880)] * 96
    assert chance(wide, shared=20_000)["p_value"] == SMALLEST_P
    assert chance(wide, shared=6_900)["p_value"] > 0.5


def test_sets_by_hand():
    first, second = neuron_set([0, 1, 2, 3], [5]), neuron_set([2, 3], [5, 6])
    found = compare(first, second)
    assert list(found) == COMPARED
    assert (found["count_a"], found["count_b"], found["shared"]) == (5, 4, 3)
    assert found["share_of_a"] == pytest.approx(3 / 5)
    assert found["jaccard"] == pytest.approx(3 / 6)
    assert found["expected_share_of_a"] == pytest.approx((4 * 2 / 10 + 1 * 2 / 10) / 5)
    assert found["chance_low"] <= found["expected_share_of_a"] <= found["chance_high"]
    other_way = compare(second, first)
    assert (other_way["share_of_a"], other_way["p_value"]) == (pytest.approx(3 / 4), found["p_value"])
    empty = compare(neuron_set([], []), first)
    assert (empty["share_of_a"], empty["jaccard"], empty["p_value"]) == (0.0, 0.0, 1.0)
    with pytest.raises(CraneError, match="their sites or layers differ"):
        compare(first, neuron_set([0]))
    with pytest.raises(CraneError, match="neuron has 10 and 11 units"):
        compare(neuron_set([0]), neuron_set([0], width=11))
    sets = [neuron_set([0, 1, 2], [5]), neuron_set([1, 2, 3], []), neuron_set([2, 9], [5])]
    assert expected_intersection(sets, (True, False, False)) == pytest.approx(3 * 0.7 * 0.8 + 1 * 1 * 0.9)


def test_the_chance_of_jaccard_is_that_of_all_placements():
    """Against every way to place the second set in each of two strata."""
    strata = [(5, 2, 2), (4, 1, 2)]
    first = [set(range(a)) for _units, a, _b in strata]
    placements = [list(combinations(range(units), b)) for units, _a, b in strata]
    shared = [len(first[0] & set(one)) + len(first[1] & set(two)) for one in placements[0] for two in placements[1]]
    jaccards = [count / (7 - count) for count in shared]
    assert chance(strata, shared=0)["jaccard"] == pytest.approx(np.mean(jaccards))


def test_rows_as_neurons():
    found = as_neurons(units(gate=[[1, 2], []], up=[[2, 5], [7]], down=[[0], [3]]))
    assert [layer.tolist() for layer in found.sites["neuron"]] == [[1, 2, 5], [7]]
    assert found.widths == {"neuron": 10}
    assert as_neurons(found) is found
    with pytest.raises(CraneError, match="none belongs to a neuron"):
        as_neurons(units(down=[[0]]))
