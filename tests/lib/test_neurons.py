import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_lib.neurons import SCHEMA, SITES, NeuronSet, read_all_sets, read_neuron_sets, write_neuron_sets
from crane_lib.relevance import parts_of
from tests.lib.relevance.tiny import tiny_model

WIDTHS = {"neuron": 20, "gate": 20, "up": 20, "down": 16, "head": 4}  # of the tiny model


def neuron_set(sites, **labels):
    return NeuronSet(
        sites={site: [np.array(layer, dtype=np.int64) for layer in layers] for site, layers in sites.items()},
        widths={site: WIDTHS[site] for site in sites},
        **labels,
    )


def plain(item: NeuronSet):
    """All fields as values that compare."""
    sites = {site: [layer.tolist() for layer in layers] for site, layers in item.sites.items()}
    return vars(item) | {"sites": sites}


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
        revision=draw(st.text(max_size=3)),
        tokenizer=draw(st.text(max_size=3)),
        corpus=draw(st.text(max_size=3)),
        library=draw(st.text(max_size=3)),
        notes={"threshold": draw(st.floats(allow_nan=False, allow_infinity=False)), "text": "语"},
    )


@settings(max_examples=60, deadline=None)
@given(sets=st.lists(neuron_sets(), max_size=3))
def test_sets_are_counted_and_come_back_as_they_were(sets, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "sets.json"
    write_neuron_sets(path, sets)
    again = read_neuron_sets(path)
    assert list(map(plain, again)) == list(map(plain, sets))
    assert all(layer.dtype == np.int64 for item in again for layers in item.sites.values() for layer in layers)
    for item in sets:
        units = [(site, n, int(i)) for site, layers in item.sites.items() for n, ids in enumerate(layers) for i in ids]
        everything = [(site, n, i) for site in item.sites for n in range(item.layers) for i in range(WIDTHS[site])]
        assert item.count() == len(units)
        assert item.share() == len(units) / len(everything)
        neurons = {(n, i) for site, n, i in units if site not in ("down", "head")}
        assert item.killed() == len(neurons)
        if not item.sites.keys() <= {"down", "head"}:
            assert item.killed_share() == pytest.approx(len(neurons) / (20 * item.layers))
        # One number per unit: its place among all units, site by site and layer by layer.
        ordered = sorted(everything, key=lambda unit: (SITES.index(unit[0]), unit[1], unit[2]))
        assert item.flat().tolist() == sorted(ordered.index(unit) for unit in units)


def test_a_set_fits_the_model_it_is_for_and_no_wider_one():
    model = tiny_model()
    assert parts_of(model).widths == WIDTHS
    neuron_set({"neuron": [[0, 19], []], "down": [[15], [0]]}).check(model)
    wider = NeuronSet(sites={"neuron": [np.array([1]), np.array([2])]}, widths={"neuron": 64}, model="wide")
    with pytest.raises(CraneError, match="neuron is 64 wide, in the model 20; this set was made for 'wide'"):
        wider.check(model)


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ({"neuron": [[0]]}, "has 1 layers, the model 2"),
        ({"neuron": [[0], [1], []]}, "has 3 layers, the model 2"),
        ({"neuron": [[], [3, 20]]}, "neuron of layer 1, index 20 is out of range for a width of 20"),
        ({"up": [[-4, 1], []]}, "up of layer 0, index -4 is out of range for a width of 20"),
        ({"head": [[1], [4]]}, "head of layer 1, index 4 is out of range for a width of 4"),
        ({"gate": [[1], []], "down": [[16], []]}, "down of layer 0, index 16 is out of range for a width of 16"),
    ],
)
def test_a_set_of_another_model_is_refused(sites, words):
    model = tiny_model()
    model.config._name_or_path = "there/model"
    with pytest.raises(CraneError) as error:
        neuron_set(sites, model="here/other").check(model, source="sets.json")
    made_for = "this set was made for 'here/other', the model is 'there/model'"
    assert str(error.value) == f"sets.json: {words}; {made_for}"


def entry(**changes):
    value = {"model": "m", "method": "lape", "budget": "0.1", "language": "en", "random_seed": -1, "notes": {}}
    value |= {"widths": {"neuron": 20}, "sites": {"neuron": [[1, 2], []]}}
    return {name: item for name, item in (value | changes).items() if item is not None}


def stored(folder, value):
    path = folder / "sets@x.json"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"schema": "crane.neurons/0", "sets": []}, "(expected schema 'crane.neurons/2', saw 'crane.neurons/0')"),
        ({"sets": []}, "is not a file of neuron sets (expected schema 'crane.neurons/2', saw None)"),
        ([[1, 2]], "saw 'list')"),
        ("text", "saw 'str')"),
        ({"schema": SCHEMA}, "sets"),
        (
            {"schema": SCHEMA, "sets": [entry(sites={"attention": [[1], []]})]},
            "unknown site 'attention'; known: neuron",
        ),
        (None, "no such file"),
    ],
)
def test_a_file_of_another_kind(tmp_path, value, words):
    path = tmp_path / "sets.json" if value is None else stored(tmp_path, value)
    with pytest.raises(CraneError) as error:
        read_neuron_sets(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


@pytest.mark.parametrize(
    "broken",
    [
        *(entry(**{name: None}) for name in ("sites", "language", "widths")),
        *(entry(sites={"neuron": found}) for found in ([["a"]], [[1.5]], 3, [3])),
        entry(sites={}),
        entry(sites={"neuron": [[1], []], "gate": [[1]]}),
        entry(sites={"neuron": [[1], []], "gate": [[1], []]}),
        entry(widths={"neuron": "20"}),
        entry(random_seed="1"),
        entry(tokenizer=3),
        entry(notes="text"),
        entry(sites=[[1], [2]]),
        "text",
        None,
    ],
)
def test_a_malformed_set_is_named(tmp_path, broken):
    path = stored(tmp_path, {"schema": SCHEMA, "sets": [entry(), broken]})
    with pytest.raises(CraneError, match=r"json: set 1 is malformed"):
        read_neuron_sets(path)


def test_a_file_of_the_first_schema_is_read(tmp_path):
    notes = {"model": "there/model", "tokenizer": "abc"}
    (old,) = read_neuron_sets(stored(tmp_path, {"schema": "crane.neurons/1", "sets": [entry(notes=notes)]}))
    assert (old.model, old.tokenizer, old.notes) == ("m", "abc", notes)
    assert (old.revision, old.corpus, old.library) == ("", "", "")


def test_all_sets_of_a_folder_whatever_the_order_of_their_indices(tmp_path):
    empty = neuron_set({"gate": [[], []]}, method="b")
    assert (empty.count(), empty.share(), empty.layers, empty.flat().tolist()) == (0, 0.0, 2, [])
    write_neuron_sets(tmp_path / "contrast@published.json", [empty, neuron_set({"up": [[1], []]}, method="a")])
    stored(tmp_path, {"schema": SCHEMA, "sets": [entry(sites={"neuron": [[7, 3, 3], []]})]})
    (tmp_path / "stage.json").write_text("{}")
    found = read_all_sets(tmp_path)
    assert [item.method for item in found] == ["b", "a", "lape"]
    assert found[2].sites["neuron"][0].tolist() == [3, 7]
