"""The neurons that LAPE's authors published."""

import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_study import ROOT
from crane_study.paper.lape_list import LANGUAGES, compare_with_list, list_counts, read_lape_list

REFERENCE = ROOT.parent / "shared" / "reference" / "lape"


def published(name):
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip("the published lists are not beside the repository")
    return path


def made_up(path, *, languages=7, layers=3, width=20, dtype=torch.int64):
    """A list in the published form: language k has neurons k, k + 1, ... of each layer."""
    value = [
        [torch.arange(k, min(k + 2 + layer, width), dtype=dtype) for layer in range(layers)] for k in range(languages)
    ]
    torch.save(value, path)
    return path


def test_the_published_list_of_llama():
    sets = read_lape_list(published("LLaMA-2-7B.neuron.pth"), layers=32, width=11008, model="Llama-2-7b-hf")
    counts = list_counts(sets).set_index("set")["neurons"].to_dict()
    assert (counts["en"], counts["zh"], counts["vi"]) == (95, 583, 836)
    assert counts["all"] == 3523 == round(0.01 * 32 * 11008)
    assert sets[1].language == "zh"
    assert sets[1].sites["neuron"][4].tolist() == [6147, 9114, 9292]
    assert [item.language for item in sets] == list(LANGUAGES[7])


def test_the_published_list_of_mistral_has_six_languages_and_does_not_fit_llama():
    path = published("Mistral-7B.neuron.pth")
    sets = read_lape_list(path, layers=32, width=14336)
    assert [item.language for item in sets] == list(LANGUAGES[6])
    assert list_counts(sets).set_index("set")["neurons"]["all"] == round(0.01 * 32 * 14336)
    with pytest.raises(CraneError, match="out of range for a width of 11008; it is of another model"):
        read_lape_list(path, layers=32, width=11008)


def test_a_made_up_list_compared_with_our_sets(tmp_path):
    listed = read_lape_list(made_up(tmp_path / "list.pth"), layers=3, width=20, model="x")
    assert [layer.tolist() for layer in listed[2].sites["neuron"]] == [[2, 3], [2, 3, 4], [2, 3, 4, 5]]
    counts = list_counts(listed).set_index("set")
    assert counts["neurons"].to_dict() == dict.fromkeys(LANGUAGES[7], 9) | {"all": 8 + 9 + 10}
    assert counts.loc["en", "share"] == 9 / 60
    ours = [
        NeuronSet({"neuron": [np.array([1, 2]), np.array([1]), np.array([19])]}, {"neuron": 20}, language="zh"),
        NeuronSet({"neuron": [np.array([0])] * 3}, {"neuron": 20}, language="de"),
    ]
    table = compare_with_list(listed, ours)
    assert table["language"].tolist() == ["zh"]
    row = table.iloc[0]
    assert (row["count_a"], row["count_b"], row["shared"]) == (4, 9, 3)
    assert row["expected_share_of_a"] == pytest.approx((2 * 2 + 1 * 3 + 1 * 4) / 20 / 4)
    assert row["chance_low"] <= row["expected_share_of_a"] <= row["chance_high"] <= row["share_of_a"]


@pytest.mark.parametrize("count", [2, 12, 32])
def test_a_list_may_have_any_languages_and_lack_a_last_one(tmp_path, count):
    path, names = made_up(tmp_path / "list.pth", languages=count, width=40), [f"l{n}" for n in range(count)]
    sets = read_lape_list(path, layers=3, width=40, languages=names)
    assert [item.language for item in sets] == names
    assert sets[1].sites["neuron"][0].tolist() == [1, 2]
    *found, empty = read_lape_list(path, layers=3, width=40, languages=[*names, "last"])
    assert [item.flat().tolist() for item in found] == [item.flat().tolist() for item in sets]
    assert (empty.language, empty.count(), empty.layers) == ("last", 0, 3)
    chosen = read_lape_list(path, layers=3, width=40, languages=names, wanted=["l1", "l0"])
    assert [item.language for item in chosen] == ["l1", "l0"]
    with pytest.raises(CraneError, match=rf"has {count} languages, paper\.lape_list_languages names {count + 2}"):
        read_lape_list(path, layers=3, width=40, languages=[*names, "a", "b"])
    with pytest.raises(CraneError, match=r"list\.pth: has no 'sw', only l0, l1"):
        read_lape_list(path, layers=3, width=40, languages=names, wanted=["l0", "sw"])


@pytest.mark.parametrize(
    ("content", "layers", "width", "message"),
    [
        ({}, 4, 20, "'en' has 3 layers, the model 4; it is of another model"),
        ({}, 3, 9, "'ja', layer 2: index 9 is out of range for a width of 9"),
        ({"languages": 5}, 3, 20, "has 5 languages, LAPE's lists have 7 or 6; name its languages in their order"),
        ([], 3, 20, "has 0 languages"),
        ({"dtype": torch.float32}, 3, 20, "expected indices .* saw torch.float32 of shape"),
        (None, 1, 20, r"no such file; paper\.lape_list"),
        ("not tensors", 1, 20, "is not a file of tensors that torch reads"),
        (torch.zeros(2), 1, 20, "expected a list over languages of lists over layers, saw Tensor"),
        ([[torch.tensor([1, 1])]] * 7, 1, 20, "names a neuron twice"),
        ([[torch.tensor([-1, 1])]] * 7, 1, 20, "index -1 is out of range"),
    ],
)
def test_a_wrong_list_is_named(tmp_path, content, layers, width, message):
    path = tmp_path / "list.pth"
    if isinstance(content, dict):
        made_up(path, **content)
    elif isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CraneError, match=message):
        read_lape_list(path, layers=layers, width=width)
