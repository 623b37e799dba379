"""Neuron sets in the formats of other tools do what our own masks do."""

import numpy as np
import pytest
import torch
from peft import PeftModel

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance.modules import parts_of
from crane_study.own.exchange import read_kinit, write_ia3, write_lape_list
from crane_study.paper.lape_list import read_lape_list
from tests.lib.relevance.tiny import tiny_model

IDS = torch.tensor([[1, 5, 2, 7, 3, 6, 4]])


def some_neurons(model, language="vi"):
    parts = parts_of(model)
    width = parts.widths["neuron"]
    sites = {"neuron": [np.arange(layer, width, 3 + layer) for layer in range(len(parts.layers))]}
    return NeuronSet(sites=sites, widths={"neuron": width}, method="contrast", language=language)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "olmo2", "gpt2", "phi3"])
def test_an_adapter_masks_to_the_bit(kind, tmp_path):
    model = tiny_model(kind).eval()
    neurons = some_neurons(model)
    with torch.no_grad(), masked(model, neurons):
        expected = model(IDS).logits
    with torch.no_grad():
        unmasked = model(IDS).logits
    write_ia3(tmp_path / "adapter", model, neurons)
    adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(adapted(IDS).logits, expected)
        assert not torch.equal(expected, unmasked)


def test_an_adapter_amplifies(tmp_path):
    model = tiny_model("llama").eval()
    neurons = some_neurons(model)
    doubled = lambda _layer, _indices, values: 2 * values  # noqa: E731
    with torch.no_grad(), masked(model, neurons, values=doubled):
        expected = model(IDS).logits
    write_ia3(tmp_path / "adapter", model, neurons, gain=2.0)
    adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(adapted(IDS).logits, expected)


def test_an_adapter_is_not_written_over_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("notes", encoding="utf-8")
    model = tiny_model("llama")
    with pytest.raises(CraneError, match="is not empty"):
        write_ia3(tmp_path, model, some_neurons(model))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_lists_of_lape_come_back(tmp_path):
    model = tiny_model("llama")
    sets = [some_neurons(model, language) for language in ("en", "vi")]
    write_lape_list(tmp_path / "list.neuron.pth", sets)
    sizes = {"layers": sets[0].layers, "width": sets[0].widths["neuron"], "model": ""}
    found = read_lape_list(tmp_path / "list.neuron.pth", languages=["en", "vi"], wanted=["en", "vi"], **sizes)
    for before, after in zip(sets, found, strict=True):
        assert before.language == after.language
        for one, other in zip(before.sites["neuron"], after.sites["neuron"], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_list_that_loses_its_last_language_or_has_rows_is_refused(tmp_path):
    model = tiny_model("llama")
    full = some_neurons(model)
    none = NeuronSet({"neuron": [np.empty(0, dtype=np.int64)] * full.layers}, full.widths, language="en")
    with pytest.raises(CraneError, match="the last language has no neurons"):
        write_lape_list(tmp_path / "list", [full, none])
    rows = NeuronSet({"gate": full.sites["neuron"]}, {"gate": full.widths["neuron"]}, language="en")
    with pytest.raises(CraneError, match="has units at"):
        write_lape_list(tmp_path / "list", [rows])
    assert not list(tmp_path.iterdir())


def test_kinits_dictionary_is_read(tmp_path):
    chosen = {"en": [[0, 2], [1, 3]], "vi": [[1, 1]]}
    results = {
        "mlp_act": {"selected_mask": torch.zeros(2, 5, dtype=torch.bool), "selected_indices_by_language": chosen}
    }
    torch.save({"method": "lape", "languages": ["en", "vi"], "params": {}, "results": results}, tmp_path / "a.pt")
    english, vietnamese = read_kinit(tmp_path / "a.pt")
    assert [list(layer) for layer in english.sites["neuron"]] == [[2], [3]]
    assert [list(layer) for layer in vietnamese.sites["neuron"]] == [[], [1]]
    assert (english.method, vietnamese.language, english.widths) == ("lape", "vi", {"neuron": 5})
    torch.save({"other": 1}, tmp_path / "b.pt")
    with pytest.raises(CraneError, match="is not a file of kinit's"):
        read_kinit(tmp_path / "b.pt")
