"""Tables of overlaps, compared with counts by hand."""

import numpy as np
import pytest

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_study.tables.overlap import agreement, intersections, overlaps, set_counts
from tests.study.outputs.synthetic import make_sets


def neurons(language, *layers, method="a", seed=-1):
    indices = [np.array(layer, dtype=int) for layer in layers]
    return NeuronSet({"neuron": indices}, {"neuron": 10}, "m", method, "0.1", language, seed)


def rows(language, *, method="rows", **sites):
    widths = {"gate": 10, "up": 10, "down": 4}
    layers = {site: [np.array(layer, dtype=int) for layer in found] for site, found in sites.items()}
    return NeuronSet(layers, {site: widths[site] for site in sites}, "m", method, "published", language)


def test_languages_are_compared_per_method():
    sets = [neurons("en", [0, 1, 2, 3], [5]), neurons("zh", [2, 3], [5, 6])]
    sets += [neurons("en", [0], [], method="b"), neurons("zh", [], [], method="b")]
    frame = overlaps(sets).set_index(["method", "language_a", "language_b"])
    assert len(frame) == 4
    assert frame.loc[("a", "en", "zh"), ["count_a", "count_b", "shared"]].tolist() == [5, 4, 3]
    assert frame.loc[("a", "zh", "en"), "share_of_a"] == pytest.approx(3 / 4)
    assert frame.loc[("b", "zh", "en"), ["share_of_a", "jaccard", "p_value"]].tolist() == [0.0, 0.0, 1.0]
    assert not frame.isna().any().any()
    # Draws are compared separately.
    frame = overlaps([neurons(code, [draw], seed=draw) for draw in (0, 1) for code in ("en", "zh")])
    assert list(frame["random_seed"]) == [0, 0, 1, 1]
    assert (frame["shared"] == 1).all()


def test_set_counts():
    frame = set_counts([neurons("en", [0, 1], [], [4])])
    assert frame[["layer", "count", "share"]].to_numpy().tolist() == [[0, 2, 0.2], [1, 0, 0.0], [2, 1, 0.1]]
    assert "p_value" in overlaps([]).columns
    assert "share" in set_counts([]).columns
    for table, message in ((overlaps, "two sets of 'en'"), (intersections, "two sets of one language in en, en")):
        with pytest.raises(CraneError, match=message):
            table([neurons("en", [0]), neurons("en", [1])])


def test_jaccard_lies_in_its_chance_range_for_random_sets():
    random = [item for item in make_sets() if item.method == "random_like_contrast" and item.random_seed == 0]
    table = overlaps(random)
    assert (table["jaccard_low"] <= table["expected_jaccard"]).all()
    assert (table["expected_jaccard"] <= table["jaccard_high"]).all()
    assert table["jaccard"].between(table["jaccard_low"], table["jaccard_high"]).mean() >= 2 / 3
    apart = overlaps([item for item in make_sets() if item.method == "contrast"])
    assert (apart["jaccard"] < apart["jaccard_low"]).all()


def test_agreement_by_hand():
    sets = [
        neurons("en", [1, 2], [3]),
        neurons("en", [2], [3, 4], method="b"),
        rows("en", gate=[[2], []], up=[[2], [9]]),
        neurons("vi", [1], []),
    ]
    table = agreement(sets).set_index(["language", "method_a", "method_b"])
    assert len(table) == 6
    pair = table.loc[("en", "a", "b")]
    assert (pair["shared"], pair["share_of_a"], pair["jaccard"], pair["unit"]) == (2, 2 / 3, 0.5, "neuron")
    assert pair["expected_share_of_a"] == pytest.approx((2 * 1 + 1 * 2) / 10 / 3)
    assert table.loc[("en", "rows", "a"), "count_a"] == 2  # the gate and the up row of neuron 2 are one neuron
    assert table.loc[("en", "rows", "a"), "shared"] == 1
    two = [rows("en", gate=[[2]], up=[[3]]), rows("en", gate=[[2]], up=[[2]], method="other")]
    assert agreement(two)[["unit", "shared"]].to_numpy().tolist() == [["row", 1], ["row", 1]]


def test_intersections_by_hand():
    sets = [neurons("en", [0, 1, 2], [5]), neurons("zh", [1, 2, 3], []), neurons("vi", [2, 9], [5])]
    table = intersections(sets).set_index("languages")
    counts = table["count"].to_dict()
    assert counts["en+zh+vi"] == 1
    assert (counts["en+zh"], counts["en+vi"], counts["en"], counts["zh"], counts["vi"]) == (1, 1, 1, 1, 1)
    assert table.loc["en", "expected"] == pytest.approx(3 * 0.7 * 0.8 + 1 * 1 * 0.9)
    assert table.loc["en+zh", "degree"] == 2
    # They add up to the sets.
    sets = [item for item in make_sets() if item.method == "kurtosis"]
    table = intersections(sets)
    for item in sets:
        inside = table["languages"].str.split("+").map(lambda codes, code=item.language: code in codes)
        assert table.loc[inside, "count"].sum() == item.count()
        assert table.loc[inside, "expected"].sum() == pytest.approx(item.count(), abs=1)
