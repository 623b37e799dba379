"""Masks and exported checkpoints, compared with weights zeroed by hand."""

import copy

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from crane_lib.errors import CraneError
from crane_lib.interventions import export_masked, masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import parts_of
from tests.lib.relevance.tiny import documents, hook_count, padded, tiny_model

DTYPES = (torch.float32, torch.bfloat16)
SITE_CHOICES = [("neuron",), ("gate",), ("up",), ("down",), ("gate", "up", "down"), ("neuron", "down")]
KINDS = [("llama", {}), ("qwen2", {}), ("llama", {"mlp_bias": True, "attention_bias": True})]


WIDTH = 20  # of the MLP
SEPARATE = {"gate": ("gate_proj", 0), "up": ("up_proj", 0), "down": ("down_proj", 0)}
FUSED = {"gate": ("gate_up_proj", 0), "up": ("gate_up_proj", WIDTH), "down": ("down_proj", 0)}
NEOX = {"up": ("dense_h_to_4h", 0), "down": ("dense_4h_to_h", 0)}
# Matrix and first row of each site, and the dimension of the inputs.
MATRICES = {
    "llama": (SEPARATE, 1),
    "qwen2": (SEPARATE, 1),
    "gemma2": (SEPARATE, 1),
    "phi3": (FUSED, 1),
    "gpt2": ({"up": ("c_fc", 0), "down": ("c_proj", 0)}, 0),
    "bloom": (NEOX, 1),
    "gpt_neox": (NEOX, 1),
}


def layers_of(model):
    backbone = model.get_submodule(model.base_model_prefix)
    return backbone.h if hasattr(backbone, "h") else backbone.layers


def neuron_set(model, sites, *, share=0.3, random_seed=0, **labels):
    generator = np.random.default_rng(random_seed)
    found = parts_of(model).widths
    widths = {site: found[site] for site in sites if site in found}
    return NeuronSet(
        sites={
            site: [np.flatnonzero(generator.random(width) < share) for _layer in range(model.config.num_hidden_layers)]
            for site, width in widths.items()
        },
        widths=widths,
        **labels,
    )


def by_weights(model, neurons):
    """A copy of the model with the columns and rows of its matrices set to zero, one by one."""
    copied = copy.deepcopy(model)
    names, inputs = MATRICES[model.config.model_type]
    with torch.no_grad():
        for site, layers in neurons.sites.items():
            name, first = names["down" if site == "neuron" else site]
            for layer, indices in zip(layers_of(copied), layers, strict=True):
                weight = getattr(layer.mlp, name).weight
                for index in indices.tolist():
                    if site == "neuron":
                        weight.select(inputs, index).zero_()
                    else:
                        weight.select(1 - inputs, first + index).zero_()
    return copied


BATCH, ATTENTION = padded(documents([9, 5, 12]))


@torch.no_grad()
def logits(model):
    return model(input_ids=BATCH, attention_mask=ATTENTION).logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sites", SITE_CHOICES, ids="+".join)
@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=["llama", "qwen2", "llama-bias"])
def test_a_mask_is_zeroed_weights(kind, settings, sites, dtype):
    model = tiny_model(kind, dtype=dtype, **settings)
    neurons = neuron_set(model, sites)
    before = logits(model)
    with masked(model, neurons):
        inside = logits(model)
    assert torch.equal(inside, logits(by_weights(model, neurons)))
    assert not torch.allclose(inside.float(), before.float(), atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_without_biases_a_neuron_is_its_gate_or_up_row(kind, dtype):
    model = tiny_model(kind, dtype=dtype)
    neurons = neuron_set(model, ["neuron"])
    seen = []
    for site in ("neuron", "gate", "up"):
        with masked(model, NeuronSet(sites={site: neurons.sites["neuron"]}, widths={site: 20})):
            seen.append(logits(model))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_only_the_bias_is_left_of_a_row_and_it_matters():
    model = tiny_model(mlp_bias=True, dtype=torch.float32)
    neurons = neuron_set(model, ["gate"])
    with masked(model, neurons):
        kept = logits(model)
    with masked(model, NeuronSet(sites={"neuron": neurons.sites["gate"]}, widths={"neuron": 20})):
        gone = logits(model)
    assert not torch.allclose(kept, gone, atol=1e-3)


def test_the_activation_reaching_down_proj_is_zero_at_the_neurons_and_nowhere_else():
    model = tiny_model(dtype=torch.float32)
    neurons = neuron_set(model, ["neuron"])
    seen = []
    with masked(model, neurons):
        handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        logits(model)
        handle.remove()
    zero = (seen[0] == 0).all(dim=(0, 1))
    assert torch.nonzero(zero).flatten().tolist() == neurons.sites["neuron"][1].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_model_leaves_as_it_came(kind, dtype):
    model = tiny_model(kind, dtype=dtype)
    before, weights, hooks = logits(model), copy.deepcopy(model.state_dict()), hook_count(model)
    attributes = set(vars(model))
    with masked(model, neuron_set(model, ["neuron", "gate", "up", "down"])) as inside:
        assert inside is model
        logits(model)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), before)
    assert hook_count(model) == hooks
    assert set(vars(model)) == attributes


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_the_model_leaves_as_it_came_after_an_exception(problem):
    model = tiny_model(dtype=torch.float32)
    before, hooks = logits(model), hook_count(model)

    def fail():
        with masked(model, neuron_set(model, ["neuron"])):
            assert not torch.equal(logits(model), before)
            raise problem

    with pytest.raises(problem):
        fail()
    assert torch.equal(logits(model), before)
    assert hook_count(model) == hooks
    with masked(model, neuron_set(model, ["neuron"])):
        assert not torch.equal(logits(model), before)


def test_another_model_in_the_process_is_not_affected():
    model, other = tiny_model(dtype=torch.float32), tiny_model(dtype=torch.float32)
    before = logits(other)
    with masked(model, neuron_set(model, ["neuron"])):
        assert torch.equal(logits(other), before)
        with masked(other, neuron_set(other, ["down"])):
            assert not torch.equal(logits(other), before)
        assert torch.equal(logits(other), before)


def test_the_users_own_hooks_survive():
    model = tiny_model(dtype=torch.float32)
    calls = []
    for module in (model.model.layers[0].mlp.down_proj, model.model.layers[1].mlp.gate_proj):
        module.register_forward_hook(lambda *_: calls.append("after"))
        module.register_forward_pre_hook(lambda *_: calls.append("before"))
    with masked(model, neuron_set(model, ["neuron", "gate"])):
        logits(model)
        assert len(calls) == 4
    logits(model)
    assert len(calls) == 8


def test_nesting_is_refused_and_the_outer_mask_stays():
    model = tiny_model(dtype=torch.float32)
    before = logits(model)
    with masked(model, neuron_set(model, ["neuron"])):
        inside = logits(model)
        with (
            pytest.raises(CraneError, match="already masked; join the sets"),
            masked(model, neuron_set(model, ["gate"])),
        ):
            pass
        assert torch.equal(logits(model), inside)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ({"neuron": [[], [25]]}, "neuron of layer 1, index 25 is out of range for a width of 20"),
        ({"down": [[16], []]}, "down of layer 0, index 16 is out of range for a width of 16"),
        ({"neuron": [[1]]}, "has 1 layers, the model 2"),
    ],
)
def test_a_set_of_another_model_is_refused(sites, words, tmp_path):
    model = tiny_model(dtype=torch.float32)
    before = logits(model)
    neurons = NeuronSet(
        sites={site: [np.array(layer, dtype=np.int64) for layer in layers] for site, layers in sites.items()},
        widths=dict.fromkeys(sites, 64),
        model="meta/other-7b",
    )
    for attempt in (
        lambda: masked(model, neurons).__enter__(),
        lambda: export_masked(model, None, neurons, tmp_path / "out"),
    ):
        with pytest.raises(CraneError) as error:
            attempt()
        assert words in str(error.value)
        assert "this set was made for 'meta/other-7b', the model is 'LlamaForCausalLM'" in str(error.value)
    assert torch.equal(logits(model), before)
    assert hook_count(model) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_empty_set_changes_nothing():
    model = tiny_model(dtype=torch.float32)
    before = logits(model)
    with masked(model, neuron_set(model, ["neuron", "up"], share=0.0)):
        assert torch.equal(logits(model), before)


def test_a_mask_lets_gradients_through_the_rest():
    model = tiny_model(dtype=torch.float64)
    neurons = neuron_set(model, ["neuron"])
    weight = model.model.layers[0].mlp.down_proj.weight
    with masked(model, neurons):
        model(input_ids=BATCH).logits.sum().backward()
    dead = torch.zeros(20, dtype=torch.bool)
    dead[neurons.sites["neuron"][0]] = True
    assert not weight.grad[:, dead].any()
    assert weight.grad[:, ~dead].abs().sum(0).min() > 0


# --- checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer():
    words = {f"w{number}": number for number in range(53)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w1")


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager").eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sites", SITE_CHOICES, ids="+".join)
@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=["llama", "qwen2", "llama-bias"])
def test_a_masked_checkpoint_is_the_masked_model(kind, settings, sites, dtype, tokenizer, tmp_path):
    tiny_model(kind, dtype=dtype, **settings).save_pretrained(tmp_path / "whole")
    model = loaded(tmp_path / "whole")
    before, weights = logits(model), copy.deepcopy(model.state_dict())
    neurons = neuron_set(model, sites)
    export_masked(model, tokenizer, neurons, tmp_path / "masked")
    again = loaded(tmp_path / "masked")
    with masked(model, neurons):
        assert torch.equal(logits(again), logits(model))
    assert again.dtype == dtype
    assert torch.equal(logits(model), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masked", "whole"]


@pytest.mark.parametrize("site", ["neuron", "gate", "up", "down"])
@pytest.mark.parametrize("kind", ["phi3", "gemma2", "gpt2", "bloom", "gpt_neox"])
@torch.no_grad()
def test_masks_and_checkpoints_of_other_families(kind, site, tokenizer, tmp_path):
    model = tiny_model(kind, dtype=torch.float32)
    if site not in parts_of(model).widths:
        wrong = NeuronSet(sites={site: [[0], []]}, widths={site: WIDTH})
        with pytest.raises(CraneError, match="has units at gate, the model's MLP has none"), masked(model, wrong):
            pass
        return
    neurons = neuron_set(model, [site], random_seed=3)
    before, expected = logits(model), logits(by_weights(model, neurons))
    with masked(model, neurons):
        torch.testing.assert_close(logits(model), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(expected, before, atol=1e-3)
    export_masked(model, tokenizer, neurons, str(tmp_path / "masked"))
    assert torch.equal(logits(model), before)
    torch.testing.assert_close(logits(loaded(tmp_path / "masked")), expected, rtol=1e-5, atol=1e-5)


def test_the_tokenizer_goes_with_the_checkpoint(tokenizer, tmp_path):
    model = tiny_model()
    (tmp_path / "masked").mkdir()  # an empty folder may be there
    export_masked(model, tokenizer, neuron_set(model, ["neuron"]), tmp_path / "masked")
    assert AutoTokenizer.from_pretrained(tmp_path / "masked")("w3 w7")["input_ids"] == [3, 7]


def test_an_export_that_fails_leaves_no_checkpoint_and_the_model_as_it_was(tokenizer, tmp_path, monkeypatch):
    model = tiny_model(dtype=torch.float32)
    before = logits(model)

    def fail(folder):
        assert not torch.equal(logits(model), before)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with pytest.raises(CraneError, match="disk is full"):
        export_masked(model, tokenizer, neuron_set(model, ["neuron", "down"]), tmp_path / "masked")
    assert torch.equal(logits(model), before)
    assert list(tmp_path.iterdir()) == []


def test_an_export_does_not_replace_a_folder_that_holds_something(tokenizer, tmp_path):
    model = tiny_model(dtype=torch.float32)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CraneError, match="is not empty"):
        export_masked(model, tokenizer, neuron_set(model, ["neuron"]), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
