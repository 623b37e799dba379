"""Random sets that match a set."""

import math

import numpy as np

from crane_lib.selection import select_kurtosis
from crane_study.steps.selection import select_random_like
from tests.lib.test_selection import ROW_SHAPES, row_kurtosis, units


def test_random_units_are_as_many_in_every_layer_and_site():
    chosen = select_kurtosis(row_kurtosis(2), threshold=0.5)["zh"]
    widths = {site: shape[1] for site, shape in ROW_SHAPES.items()}
    draws = [select_random_like(chosen, widths, generator=np.random.default_rng(draw)) for draw in range(200)]
    for draw in draws:
        assert list(draw) == list(chosen)
        for site, layers in draw.items():
            assert [len(layer) for layer in layers] == [len(layer) for layer in chosen[site]]
            for layer in layers:
                assert layer.dtype == np.int64
                assert np.array_equal(layer, np.unique(layer))
                assert not len(layer) or (layer.min() >= 0 and layer.max() < widths[site])
    again = select_random_like(chosen, widths, generator=np.random.default_rng(0))
    assert units(again) == units(draws[0]) != units(draws[1])
    # Every unit of a layer that has some is as likely as any other.
    site, layer = next((s, n) for s, layers in chosen.items() for n, ids in enumerate(layers) if len(ids))
    counts = np.bincount(np.concatenate([draw[site][layer] for draw in draws]), minlength=widths[site])
    share = len(chosen[site][layer]) / widths[site]
    deviation = math.sqrt(200 * share * (1 - share))
    assert np.abs(counts - 200 * share).max() < 4 * deviation


def killed(chosen, layer):
    """Neurons whose gate row or up row is selected."""
    return set(chosen["gate"][layer].tolist()) | set(chosen["up"][layer].tolist())


def test_random_rows_keep_the_two_rows_of_a_neuron_together():
    """The control kills exactly as many neurons as the set; drawn apart, few rows meet and they kill more."""
    twins = [np.arange(0, 40, 2), np.arange(10)]
    chosen = {"gate": twins, "up": [np.arange(0, 40, 4), np.arange(10)], "down": [np.arange(3), np.arange(0)]}
    widths = {"gate": 100, "up": 100, "down": 20}
    more = 0
    for draw in range(50):
        paired, apart = (
            select_random_like(chosen, widths, generator=np.random.default_rng(draw), paired=kind)
            for kind in (True, False)
        )
        assert [len(killed(paired, layer)) for layer in (0, 1)] == [20, 10]
        more += sum(len(killed(apart, layer)) for layer in (0, 1)) - 30
    assert more > 50 * 10
