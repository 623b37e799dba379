"""What rules share, and what lies in which languages' sets."""

import numpy as np
import pytest

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_lib.overlap import agreement, as_neurons, intersections
from tests.study.outputs.synthetic import make_sets


def neurons(language, *layers, method="a", width=10):
    return NeuronSet(
        {"neuron": [np.array(layer, dtype=int) for layer in layers]}, {"neuron": width}, "m", method, "0.1", language
    )


def rows(language, *, method="rows", **sites):
    widths = {"gate": 10, "up": 10, "down": 4}
    return NeuronSet(
        {site: [np.array(layer, dtype=int) for layer in layers] for site, layers in sites.items()},
        {site: widths[site] for site in sites}, "m", method, "published", language,
    )  # fmt: skip


def test_rows_as_neurons():
    item = rows("en", gate=[[1, 2], []], up=[[2, 5], [7]], down=[[0], [3]])
    found = as_neurons(item)
    assert [layer.tolist() for layer in found.sites["neuron"]] == [[1, 2, 5], [7]]
    assert found.widths == {"neuron": 10}
    assert as_neurons(found) is found
    with pytest.raises(CraneError, match="none belongs to a neuron"):
        as_neurons(rows("en", down=[[0]]))


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


def test_intersections_add_up_to_the_sets():
    sets = [item for item in make_sets() if item.method == "kurtosis"]
    table = intersections(sets)
    for item in sets:
        inside = table["languages"].str.split("+").map(lambda codes, code=item.language: code in codes)
        assert table.loc[inside, "count"].sum() == item.count()
        assert table.loc[inside, "expected"].sum() == pytest.approx(item.count(), abs=1)
    with pytest.raises(CraneError, match="two sets of one language"):
        intersections([sets[0], sets[0]])
