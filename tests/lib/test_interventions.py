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

WIDTH = 20  # of the MLP
SEPARATE = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
DENSE = {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}
FUSED = {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"}
MATRICES = {
    "llama": SEPARATE,
    "qwen2": SEPARATE,
    "qwen3": SEPARATE,
    "gemma3_text": SEPARATE,
    "gemma2": SEPARATE,
    "phi3": FUSED,
    "bloom": DENSE,
    "gpt_neox": DENSE,
}
MATRICES["gpt2"] = {"up": "c_fc", "down": "c_proj"}
OUTPUTS = {"gpt2": "attn.c_proj", "bloom": "self_attention.dense", "gpt_neox": "attention.dense"}


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
    copied, kind = copy.deepcopy(model), model.config.model_type
    backbone = copied.get_submodule(copied.base_model_prefix)
    inputs = 0 if kind == "gpt2" else 1  # dimension of the inputs
    for site, by_layer in neurons.sites.items():
        name = "mlp." + MATRICES[kind]["down" if site in ("neuron", "head") else site]
        name = OUTPUTS.get(kind, "self_attn.o_proj") if site == "head" else name
        first = WIDTH if (kind, site) == ("phi3", "up") else 0  # row of the matrix; gate and up are one
        for layer, indices in zip(backbone.h if hasattr(backbone, "h") else backbone.layers, by_layer, strict=True):
            weight = layer.get_submodule(name).weight.data
            size = weight.shape[inputs] // model.config.num_attention_heads
            for index in indices.tolist():
                if site == "neuron":
                    weight.select(inputs, index).zero_()
                elif site == "head":
                    weight.narrow(inputs, index * size, size).zero_()
                else:
                    weight.select(1 - inputs, first + index).zero_()
    return copied


BATCH, ATTENTION = padded(documents([9, 5, 12]))


@torch.no_grad()
def logits(model):
    return model(input_ids=BATCH, attention_mask=ATTENTION).logits


SITE_CHOICES = [("neuron",), ("gate",), ("up",), ("down",), ("gate", "up", "down"), ("neuron", "down")]
SITE_CHOICES += [("head",), ("neuron", "head")]
EXACT = ["llama", "qwen2", "llama with biases", "qwen3", "gemma3_text"]  # the last two: heads of another size
CASES = [(kind, dtype) for kind in EXACT for dtype in (torch.float32, torch.bfloat16)]
CASES += [(kind, torch.float32) for kind in ("phi3", "gemma2", "gpt2", "bloom", "gpt_neox")]


@pytest.mark.parametrize("sites", SITE_CHOICES, ids="+".join)
@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_a_mask_is_zeroed_weights_also_in_a_checkpoint(kind, sites, dtype, tokenizer, tmp_path):
    biases = {"mlp_bias": True, "attention_bias": True} if "biases" in kind else {}
    tiny_model(kind.split()[0], dtype=dtype, **biases).save_pretrained(tmp_path / "whole")
    model = loaded(tmp_path / "whole")
    if not set(sites) <= set(parts_of(model).widths):
        wrong = NeuronSet(sites={site: [[0], []] for site in sites}, widths=dict.fromkeys(sites, WIDTH))
        with pytest.raises(CraneError, match="has units at gate, the model's layers have none"), masked(model, wrong):
            pass
        return
    neurons = neuron_set(model, sites)
    before, weights, attributes = logits(model), copy.deepcopy(model.state_dict()), set(vars(model))
    export_masked(model, tokenizer, neurons, tmp_path / "masked")
    with masked(model, neurons) as inside:
        assert inside is model
        found = logits(model)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    again = loaded(tmp_path / "masked")
    assert again.dtype == dtype
    tolerance = {"rtol": 0, "atol": 0} if kind in EXACT else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found, logits(by_weights(model, neurons)), **tolerance)
    torch.testing.assert_close(found, logits(again), **tolerance)
    assert not torch.allclose(found.float(), before.float(), atol=1e-2)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert set(vars(model)) == attributes
    assert hook_count(model) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masked", "whole"]


@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2"])
def test_replaced_activations_are_zeroed_columns_and_what_the_values_add_at_every_token(kind):
    """The slow way: the columns of the neurons are zero, and value x column is added to the output token by token."""
    model = tiny_model(kind, dtype=torch.float64)
    neurons, before, weights = neuron_set(model, ["neuron"]), logits(model), copy.deepcopy(model.state_dict())
    given = torch.randn(2, *BATCH.shape, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = []

    def values(layer, indices, found):
        seen.append((layer, indices.tolist(), tuple(found.shape)))
        return given[layer][..., indices]

    with masked(model, neurons, values=values):
        found = logits(model)
    slow, layers = by_weights(model, neurons), parts_of(model).layers
    for number, (layer, original) in enumerate(zip(parts_of(slow).layers, layers, strict=True)):
        columns = original.rows["down"].weight()  # (H, I)

        def add(_module, _args, output, *, number=number, columns=columns):
            output = output.clone()
            for row, token in np.ndindex(*BATCH.shape):
                for index in neurons.sites["neuron"][number]:
                    output[row, token] += given[number, row, token, index] * columns[:, index]
            return output

        layer.down.register_forward_hook(add)
    torch.testing.assert_close(found, logits(slow), rtol=1e-9, atol=1e-9, equal_nan=True)  # at pads of Phi-3
    assert seen == [(n, list(s), (*BATCH.shape, len(s))) for n, s in enumerate(neurons.sites["neuron"])]
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert hook_count(model) == 0


def test_its_own_activations_in_their_place_change_nothing_and_rows_are_refused():
    model = tiny_model(dtype=torch.float64)
    before = logits(model)
    with masked(model, neuron_set(model, ["neuron"]), values=lambda _layer, _indices, found: found):
        assert torch.equal(logits(model), before)
    heads = neuron_set(model, ["head"], share=0.5)
    with masked(model, heads, values=lambda _layer, _indices, found: found):
        assert torch.equal(logits(model), before)
    with masked(model, heads, values=lambda _layer, _indices, found: 0 * found):
        assert torch.equal(logits(model), logits(by_weights(model, heads)))
    rows = neuron_set(model, ["gate", "up"])
    with (
        pytest.raises(CraneError, match="only the activations of neurons, or those of heads"),
        masked(model, rows, values=max),
    ):
        pass
    assert hook_count(model) == 0


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_restored_after_an_exception_and_nesting_is_refused(problem):
    model = tiny_model(dtype=torch.float32)
    before, neurons = logits(model), neuron_set(model, ["neuron"])
    with pytest.raises(problem), masked(model, neurons):
        raise problem
    assert torch.equal(logits(model), before)
    assert hook_count(model) == 0
    with masked(model, neurons):
        inside = logits(model)
        assert not torch.equal(inside, before)
        with pytest.raises(CraneError, match="already masked; join the sets"), masked(model, neurons):
            pass
        assert torch.equal(logits(model), inside)


def test_another_model_and_the_users_own_hooks_are_not_affected():
    model, other = tiny_model(dtype=torch.float32), tiny_model(dtype=torch.float32)
    before, calls = logits(other), []
    for module in (model.model.layers[0].mlp.down_proj, model.model.layers[1].mlp.gate_proj):
        module.register_forward_hook(lambda *_: calls.append("after"))
        module.register_forward_pre_hook(lambda *_: calls.append("before"))
    with masked(model, neuron_set(model, ["neuron", "gate"])):
        assert torch.equal(logits(other), before)
        with masked(other, neuron_set(other, ["down"])):
            assert not torch.equal(logits(other), before)
        with masked(other, neuron_set(other, ["neuron", "up"], share=0.0)):
            assert torch.equal(logits(other), before)
        logits(model)
        assert len(calls) == 4
    logits(model)
    assert len(calls) == 8


def test_a_set_of_another_model_is_refused(tmp_path):
    model = tiny_model(dtype=torch.float32)
    neurons = NeuronSet({"neuron": [np.array([], dtype=int), np.array([25])]}, {"neuron": 64}, model="meta/other-7b")
    words = "index 25 is out of range for a width of 20; this set was made for 'meta/other-7b', the model is 'Llama"
    with pytest.raises(CraneError, match=words), masked(model, neurons):
        pass
    with pytest.raises(CraneError, match=words):
        export_masked(model, None, neurons, tmp_path / "out")
    assert hook_count(model) == 0
    assert list(tmp_path.iterdir()) == []


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


def test_an_export_that_fails_leaves_no_checkpoint_and_the_model_as_it_was(tokenizer, tmp_path, monkeypatch):
    model = tiny_model(dtype=torch.float32)
    before, neurons = logits(model), neuron_set(model, ["neuron", "down"])

    def fail(folder):
        assert not torch.equal(logits(model), before)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "save_pretrained", fail)
        with pytest.raises(CraneError, match="disk is full"):
            export_masked(model, tokenizer, neurons, tmp_path / "masked")
    assert torch.equal(logits(model), before)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "masked").mkdir()  # an empty folder may be there
    export_masked(model, tokenizer, neurons, tmp_path / "masked")
    assert AutoTokenizer.from_pretrained(tmp_path / "masked")("w3 w7")["input_ids"] == [3, 7]
    with pytest.raises(CraneError, match="is not empty"):
        export_masked(model, tokenizer, neurons, tmp_path)
