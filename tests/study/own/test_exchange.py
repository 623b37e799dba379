"""Neuron sets in the formats of other tools do what our own masks do."""

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance.families import FAMILIES
from crane_lib.relevance.modules import parts_of
from crane_lib.steering import pushed
from crane_study.loading.models import load_model
from crane_study.own.exchange import read_kinit, write_ia3, write_lape_list, write_vectors
from crane_study.own.steerers import steer_difference, steer_set
from crane_study.paper.lape_list import read_lape_list
from tests.lib.relevance.tiny import FAMILY_KINDS, tiny_model
from tests.small import write_model

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


# --- steering vectors ----------------------------------------------------------------------------------------


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def steered_set(model):
    texts = [[1, 5, 2, 7], [3, 6, 4, 2, 8]]
    return steer_set(model, some_neurons(model), texts)


@pytest.fixture(scope="module")
def through_lm_eval(tmp_path_factory):
    """Logits of a small model on disk, loaded by lm-eval's own class with a file of vectors."""
    from lm_eval.models.hf_steered import SteeredModel

    folder = write_model(tmp_path_factory.mktemp("steered") / "model")
    given = {"device": "cpu", "dtype": "float32", "batch_size": 1}

    def run(path):
        return SteeredModel(pretrained=str(folder), steer_path=str(path), **given)._model_call(IDS)

    return load_model(folder, device="cpu", dtype="float32")[0], run


@pytest.mark.parametrize("of_neurons", [True, False])
def test_lm_eval_steers_as_we_do(of_neurons, through_lm_eval, tmp_path):
    model, run = through_lm_eval
    texts = {"en": [[1, 5, 2, 7]], "vi": [[3, 6, 4, 2, 8]]}
    steerer = steered_set(model) if of_neurons else steer_difference(model, texts, language="vi", layer=1)
    assert write_vectors(tmp_path / "s.pt", model, steerer.vectors, strength=3.0, of_neurons=of_neurons) == ""
    with steerer.block(3.0):
        expected = logits(model)
    torch.testing.assert_close(run(tmp_path / "s.pt"), expected, rtol=1e-5, atol=1e-5)
    assert (expected - logits(model)).abs().max() > 1e-2
    write_vectors(tmp_path / "s.safetensors", model, steerer.vectors, strength=3.0, of_neurons=of_neurons)
    plain = torch.load(tmp_path / "s.pt", weights_only=True)
    twin = load_file(tmp_path / "s.safetensors")
    assert {name: one["steering_vector"].tolist() for name, one in plain.items()} == {
        name: vector.tolist() for name, vector in twin.items()
    }


@pytest.mark.parametrize("kind", [kind for kind in FAMILY_KINDS if kind != "qwen3_moe"])
def test_vectors_of_neurons_do_what_the_neurons_do_in_every_family(kind, tmp_path):
    model = tiny_model(kind, vocab_size=60)
    steerer = steered_set(model)
    write_vectors(tmp_path / "s.safetensors", model, steerer.vectors, strength=2.0, of_neurons=True)
    modules = dict(model.base_model.named_modules())
    with steerer.block(2.0):
        expected = logits(model)
    handles = [
        modules[name].register_forward_hook(lambda _module, _args, output, v=vector: output + v.to(output))
        for name, vector in load_file(tmp_path / "s.safetensors").items()
    ]
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)  # the file is in float32
    for handle in handles:
        handle.remove()
    assert (expected - logits(model)).abs().max() > 1e-2


def test_no_vector_does_what_neurons_of_experts_do(tmp_path):
    model = tiny_model("qwen3_moe", vocab_size=60)
    with pytest.raises(CraneError, match="only at tokens routed to them"):
        write_vectors(tmp_path / "s.pt", model, steered_set(model).vectors, strength=1.0, of_neurons=True)
    assert not list(tmp_path.iterdir())


def control_vector(path):
    """Vectors by layer in a file, added as llama.cpp does: to the outputs of layers; and the file's fields."""
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    vectors = {int(one.name.removeprefix("direction.")): torch.tensor(np.array(one.data)) for one in reader.tensors}
    return fields, vectors


@pytest.mark.parametrize("kind", [kind for kind in FAMILY_KINDS if FAMILIES[kind].additive])
def test_a_control_vector_does_what_neurons_do_above_the_first_layer(kind, tmp_path):
    model = tiny_model(kind, vocab_size=60)
    steerer = steered_set(model)
    note = write_vectors(tmp_path / "s.gguf", model, steerer.vectors, strength=2.0, of_neurons=True)
    assert note == "layer 0 is left out, llama.cpp cannot steer it"
    fields, vectors = control_vector(tmp_path / "s.gguf")
    assert fields["general.architecture"] == "controlvector"
    assert (fields["controlvector.model_hint"], fields["controlvector.layer_count"]) == (kind, 1)
    assert set(vectors) == {1}
    neurons = some_neurons(model)
    neurons.sites["neuron"][0] = np.empty(0, dtype=np.int64)
    with steer_set(model, neurons, [[1, 5, 2, 7], [3, 6, 4, 2, 8]]).block(2.0):
        expected = logits(model)
    with pushed(model, vectors):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(model)).abs().max() > 1e-3


def test_what_a_control_vector_cannot_do_is_refused(tmp_path):
    gemma, llama = tiny_model("gemma3_text"), tiny_model("llama")
    with pytest.raises(CraneError, match="layers of gemma3_text are not known to add the MLP's output"):
        write_vectors(tmp_path / "s.gguf", gemma, steered_set(gemma).vectors, strength=1.0, of_neurons=True)
    vector = {0: torch.ones(16)}
    with pytest.raises(CraneError, match=r"llama\.cpp cannot steer layer 0, and no other has a vector"):
        write_vectors(tmp_path / "s.gguf", llama, vector, strength=1.0, of_neurons=False)
    with pytest.raises(CraneError, match="expected a name that ends in"):
        write_vectors(tmp_path / "s.bin", llama, vector, strength=1.0, of_neurons=False)
    assert not list(tmp_path.iterdir())
    write_vectors(tmp_path / "s.gguf", gemma, {1: torch.ones(16)}, strength=2.0, of_neurons=False)  # between layers
    assert control_vector(tmp_path / "s.gguf")[1][1].tolist() == [2.0] * 16
