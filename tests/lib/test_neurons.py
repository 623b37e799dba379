import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_lib.neurons import SCHEMA, SITES, NeuronSet, read_all_sets, read_neuron_sets, write_neuron_sets
from crane_lib.relevance import parts_of
from tests.lib.relevance.tiny import tiny_model

WIDTHS = {"neuron": 20, "gate": 20, "up": 20, "down": 16}  # of the tiny model


def neuron_set(sites, **labels):
    return NeuronSet(
        sites={site: [np.array(layer, dtype=np.int64) for layer in layers] for site, layers in sites.items()},
        widths={site: WIDTHS[site] for site in sites},
        **labels,
    )


def same(first: NeuronSet, second: NeuronSet) -> bool:
    names = ("model", "method", "budget", "language", "random_seed")
    return (
        all(getattr(first, name) == getattr(second, name) for name in names)
        and dict(first.widths) == dict(second.widths)
        and dict(first.notes) == dict(second.notes)
        and {site: [layer.tolist() for layer in layers] for site, layers in first.sites.items()}
        == {site: [layer.tolist() for layer in layers] for site, layers in second.sites.items()}
    )


@st.composite
def neuron_sets(draw):
    layers = draw(st.integers(1, 3))
    sites = draw(st.sets(st.sampled_from(SITES), min_size=1))
    return neuron_set(
        {site: [sorted(draw(st.sets(st.integers(0, WIDTHS[site] - 1)))) for _layer in range(layers)] for site in sites},
        model=draw(st.text(max_size=5)),
        method="contrast",
        budget="0.1",
        language=draw(st.sampled_from(["en", "zh", "vi"])),
        random_seed=draw(st.integers(-1, 10)),
        notes={"threshold": draw(st.floats(allow_nan=False, allow_infinity=False)), "text": "语"},
    )


@settings(max_examples=40, deadline=None)
@given(sets=st.lists(neuron_sets(), max_size=3))
def test_sets_come_back_as_they_were(sets, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "sets.json"
    write_neuron_sets(path, sets)
    again = read_neuron_sets(path)
    assert len(again) == len(sets)
    assert all(same(first, second) for first, second in zip(again, sets, strict=True))
    for item in again:
        assert all(layer.dtype == np.int64 for layers in item.sites.values() for layer in layers)


@settings(max_examples=60, deadline=None)
@given(item=neuron_sets())
def test_counts_and_shares(item):
    units = [(site, layer, int(i)) for site in item.sites for layer, ids in enumerate(item.sites[site]) for i in ids]
    everything = [(site, layer, i) for site in item.sites for layer in range(item.layers) for i in range(WIDTHS[site])]
    assert item.count() == len(units)
    assert item.share() == len(units) / len(everything)
    # One number a unit: its place among all units, site by site and layer by layer.
    ordered = sorted(everything, key=lambda unit: (SITES.index(unit[0]), unit[1], unit[2]))
    assert item.flat().tolist() == sorted(ordered.index(unit) for unit in units)


def test_an_empty_set_counts_nothing():
    item = neuron_set({"gate": [[], []]})
    assert (item.count(), item.share(), item.layers, item.flat().tolist()) == (0, 0.0, 2, [])


def test_a_set_fits_the_model_it_is_for():
    model = tiny_model()
    assert parts_of(model).widths == WIDTHS
    neuron_set({"neuron": [[0, 19], []], "down": [[15], [0]]}).check(model)


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ({"neuron": [[0]]}, "has 1 layers, the model 2"),
        ({"neuron": [[0], [1], []]}, "has 3 layers, the model 2"),
        ({"neuron": [[], [3, 20]]}, "neuron of layer 1, index 20 is out of range for a width of 20"),
        ({"up": [[-4, 1], []]}, "up of layer 0, index -4 is out of range for a width of 20"),
        ({"gate": [[1], []], "down": [[16], []]}, "down of layer 0, index 16 is out of range for a width of 16"),
    ],
)
def test_a_set_of_another_model_is_refused(sites, words):
    model = tiny_model()
    model.config._name_or_path = "there/model"
    with pytest.raises(CraneError) as error:
        neuron_set(sites, model="here/other").check(model, source="sets.json")
    message = str(error.value)
    assert message.startswith("sets.json: ")
    assert words in message
    assert "this set was made for 'here/other', the model is 'there/model'" in message


def test_a_set_of_a_wider_model_is_refused_though_its_indices_would_fit():
    item = NeuronSet(sites={"neuron": [np.array([1]), np.array([2])]}, widths={"neuron": 64}, model="wide")
    with pytest.raises(CraneError, match="neuron is 64 wide, in the model 20; this set was made for 'wide'"):
        item.check(tiny_model())


def entry(**changes):
    value = {
        "model": "m",
        "method": "lape",
        "budget": "0.1",
        "language": "en",
        "random_seed": -1,
        "widths": {"neuron": 20},
        "notes": {},
        "sites": {"neuron": [[1, 2], []]},
    }
    return {name: item for name, item in (value | changes).items() if item is not None}


def stored(folder, value):
    path = folder / "sets.json"
    path.write_text(json.dumps(value))
    return path


def test_the_order_and_repetition_of_indices_in_a_file_do_not_matter(tmp_path):
    path = stored(tmp_path, {"schema": SCHEMA, "sets": [entry(sites={"neuron": [[7, 3, 3], []]})]})
    assert read_neuron_sets(path)[0].sites["neuron"][0].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({"schema": "crane.neurons/0", "sets": []}, "'crane.neurons/0'"),
        ({"sets": []}, "None"),
        ([[1, 2]], "'list'"),
        ("text", "'str'"),
    ],
)
def test_a_file_of_another_kind(tmp_path, value, seen):
    with pytest.raises(CraneError) as error:
        read_neuron_sets(stored(tmp_path, value))
    assert f"is not a file of neuron sets (expected schema 'crane.neurons/1', saw {seen})" in str(error.value)


@pytest.mark.parametrize(
    "broken",
    [
        entry(sites=None),
        entry(language=None),
        entry(widths=None),
        entry(sites={"neuron": [["a"]]}),
        entry(sites={"neuron": [[1.5]]}),
        entry(sites={"neuron": 3}),
        entry(sites={"neuron": [3]}),
        entry(sites={}),
        entry(sites={"neuron": [[1], []], "gate": [[1]]}),
        entry(sites={"neuron": [[1], []], "gate": [[1], []]}),
        entry(widths={"neuron": "20"}),
        entry(sites=[[1], [2]]),
        "text",
        None,
    ],
)
def test_a_malformed_set_is_named(tmp_path, broken):
    path = stored(tmp_path, {"schema": SCHEMA, "sets": [entry(), broken]})
    with pytest.raises(CraneError, match=r"sets\.json: set 1 is malformed"):
        read_neuron_sets(path)


def test_a_file_without_sets(tmp_path):
    with pytest.raises(CraneError, match=r"sets\.json: .*sets"):
        read_neuron_sets(stored(tmp_path, {"schema": SCHEMA}))


def test_an_unknown_site_is_named(tmp_path):
    path = stored(tmp_path, {"schema": SCHEMA, "sets": [entry(sites={"attention": [[1], []]})]})
    with pytest.raises(CraneError, match=r"unknown site 'attention'; known: neuron, gate, up, down"):
        read_neuron_sets(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(CraneError, match="no such file"):
        read_neuron_sets(tmp_path / "sets.json")


def test_all_sets_of_a_folder(tmp_path):
    for name, methods in (("lape@0.1", ["lape"]), ("contrast@published", ["b", "a"])):
        write_neuron_sets(
            tmp_path / f"{name}.json", [neuron_set({"neuron": [[1], []]}, method=method) for method in methods]
        )
    (tmp_path / "stage.json").write_text("{}")
    assert [item.method for item in read_all_sets(tmp_path)] == ["b", "a", "lape"]
