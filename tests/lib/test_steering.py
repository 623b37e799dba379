"""Steering, compared with forwards in which the activations are changed token by token; means, with slow sums."""

import copy

import numpy as np
import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.relevance import parts_of
from crane_lib.steering import MeanActivations, difference_of_means, mean_activations, pushed, steered
from tests.lib.relevance.tiny import FAMILY_KINDS, documents, hook_count, tiny_model

BATCH = torch.stack(documents([8, 8]))
HIDDEN, LAYERS = 16, 2


def some_neurons(model, *, share=0.3, random_seed=0):
    generator, width = np.random.default_rng(random_seed), parts_of(model).widths["neuron"]
    sites = {"neuron": [np.flatnonzero(generator.random(width) < share) for _layer in range(LAYERS)]}
    return NeuronSet(sites, {"neuron": width})


def values(*shape, random_seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(random_seed))


@torch.no_grad()
def logits(model):
    return model(input_ids=BATCH).logits


def by_columns(model, neurons, *, factor, shift):
    """The slow way: what each neuron's column adds more to the output of `down_proj`, token by token."""
    copied = copy.deepcopy(model)
    for number, layer in enumerate(parts_of(copied).layers):
        columns = layer.rows["down"].weight().detach()  # (H, I)

        def more(_module, args, output, *, number=number, columns=columns):
            output = output.clone()
            for row, token in np.ndindex(*BATCH.shape):
                for index in neurons.sites["neuron"][number]:
                    h = args[0][row, token, index]
                    output[row, token] += (factor * h + shift[number, index] - h) * columns[:, index]
            return output

        layer.down.register_forward_hook(more)
    return logits(copied)


@pytest.mark.parametrize("kind", [kind for kind in FAMILY_KINDS if kind != "qwen3_moe"])  # its columns are weighted
def test_neurons_are_amplified_and_added_to_and_the_model_leaves_as_it_came(kind):
    model = tiny_model(kind)
    neurons, before, weights = some_neurons(model), logits(model), copy.deepcopy(model.state_dict())
    width = parts_of(model).widths["neuron"]
    add, none = values(LAYERS, width), torch.zeros(LAYERS, width)
    for given, slow in (
        ({"gain": 2.5}, {"factor": 2.5, "shift": none}),
        ({"add": add, "strength": -1.5}, {"factor": 1.0, "shift": -1.5 * add}),
        ({"add": add.numpy()}, {"factor": 1.0, "shift": add}),
    ):
        with steered(model, neurons, **given) as inside:
            assert inside is model
            found = logits(model)
        torch.testing.assert_close(found, by_columns(model, neurons, **slow), rtol=1e-9, atol=1e-9)
        assert (found - before).abs().max() > 1e-3
        assert torch.equal(logits(model), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert hook_count(model) == 0


@torch.no_grad()
def test_neurons_of_experts_are_amplified():
    model = tiny_model("qwen3_moe")
    neurons, scaled = some_neurons(model), copy.deepcopy(model)
    for layer, indices in zip(parts_of(scaled).layers, neurons.sites["neuron"], strict=True):
        weight = layer.rows["down"].weight().clone()
        weight[:, indices] *= 2.5
        layer.rows["down"].store(weight)
    with steered(model, neurons, gain=2.5):
        torch.testing.assert_close(logits(model), logits(scaled), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_a_vector_is_added_between_two_layers(kind):
    """The slow way: the next layer's input is changed, and after the last layer what the final norm reads."""
    model = tiny_model(kind)
    vectors, before = {n: values(HIDDEN, random_seed=n) for n in range(LAYERS)}, logits(model)
    slow = copy.deepcopy(model)
    found = parts_of(slow)
    final = {"gpt2": "ln_f", "bloom": "ln_f", "gpt_neox": "final_layer_norm"}.get(kind, "norm")
    for number, reader in enumerate([found.layers[1].module, getattr(found.backbone, final)]):
        add = 0.5 * vectors[number]
        reader.register_forward_pre_hook(lambda _module, args, add=add: (args[0] + add, *args[1:]))
    with pushed(model, vectors, strength=0.5):
        torch.testing.assert_close(logits(model), logits(slow), rtol=1e-9, atol=1e-9)
    assert (logits(slow) - before).abs().max() > 1e-3
    assert torch.equal(logits(model), before)
    assert hook_count(model) == 0


def test_a_layer_that_returns_a_tuple_keeps_the_rest_of_it():
    model = tiny_model()
    plain = {1: values(HIDDEN)}
    with pushed(model, plain):
        expected = logits(model)
    seen = []
    layer = model.model.layers[1]
    wrap = layer.register_forward_hook(lambda _m, _a, output: (output, "rest"))
    with pushed(model, plain):
        unwrap = layer.register_forward_hook(lambda _m, _a, output: seen.append(output[1]) or output[0])
        assert torch.equal(logits(model), expected)
        assert seen == ["rest"]
    wrap.remove()
    unwrap.remove()


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_means_are_those_of_all_tokens_but_the_first(kind):
    model, texts = tiny_model(kind), documents([9, 2, 12, 1])
    found = mean_activations(model, texts, skip=1)
    parts, seen = parts_of(model), {}
    for number, layer in enumerate(parts.layers):
        layer.down.register_forward_pre_hook(
            lambda _m, args, n=number: seen.setdefault(("h", n), []).append(args[0][0])
        )
    tokens = []
    with torch.no_grad():
        for ids in texts[:3]:
            hidden = model(input_ids=ids[None], output_hidden_states=True).hidden_states
            tokens.append([h[0, 1:] for h in hidden[1:]])
    for number in range(LAYERS):
        own = torch.cat([h[1:] for h in seen["h", number]])
        torch.testing.assert_close(found.neurons[number], own.mean(0), rtol=1e-10, atol=1e-12)
    first = torch.cat([states[0] for states in tokens])  # the last of transformers' hidden states is after the norm
    torch.testing.assert_close(found.layers[0], first.mean(0), rtol=1e-10, atol=1e-12)
    assert found.neurons.dtype == found.layers.dtype == torch.float64


def test_a_difference_of_means_is_against_the_mean_of_the_others():
    means = {k: MeanActivations(torch.zeros(1, 1), values(LAYERS, HIDDEN, random_seed=n)) for n, k in enumerate("abc")}
    found = difference_of_means(means)
    expected = means["b"].layers - (means["a"].layers + means["c"].layers) / 2
    torch.testing.assert_close(found["b"], expected)
    with pytest.raises(CraneError, match="two languages or more"):
        difference_of_means({"a": means["a"]})


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_behind_and_other_hooks_and_models_stay(problem):
    model, other = tiny_model(), tiny_model()
    neurons, before, calls = some_neurons(model), logits(model), []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda *_: calls.append(2))
    with steered(model, neurons, gain=3.0), pushed(model, {0: values(HIDDEN)}):
        assert torch.equal(logits(other), before)
    with pytest.raises(problem), steered(model, neurons, gain=3.0), pushed(model, {0: values(HIDDEN)}):
        raise problem
    assert torch.equal(logits(model), before)
    assert hook_count(model) == len(calls) == 2


def test_neurons_are_not_masked_and_steered_at_once_but_pushes_add_up():
    model = tiny_model()
    neurons, vector = some_neurons(model), values(HIDDEN)
    with masked(model, neurons), pytest.raises(CraneError, match="already masked"), steered(model, neurons, gain=2.0):
        pass
    with steered(model, neurons, gain=2.0), pytest.raises(CraneError, match="already masked"), masked(model, neurons):
        pass
    with pushed(model, {0: vector}, strength=3.0):
        expected = logits(model)
    with pushed(model, {0: vector}), pushed(model, {0: vector}, strength=2.0):
        torch.testing.assert_close(logits(model), expected, rtol=1e-12, atol=1e-12)
    with steered(model, neurons, gain=0.0), pushed(model, {1: vector}):
        found = logits(model)
    with pushed(model, {1: vector}), masked(model, neurons):
        torch.testing.assert_close(logits(model), found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give either gain, a factor, or add"),
        ({"gain": 1.0, "add": np.zeros((2, 20))}, "give either gain"),
        ({"gain": np.nan}, "the factor nan is not finite"),
        ({"add": np.zeros((2, 19))}, r"have the shape \(2, 19\); expected finite numbers \(2, 20\)"),
        ({"add": np.full((2, 20), np.inf)}, "are not all finite"),
    ],
)
def test_strange_values_for_neurons_are_refused(given, words):
    model = tiny_model()
    with pytest.raises(CraneError, match=words), steered(model, some_neurons(model), **given):
        pass
    assert hook_count(model) == 0


@pytest.mark.parametrize(
    ("vectors", "strength", "words"),
    [
        ({}, 1.0, "0 vectors"),
        ({2: np.zeros(16)}, 1.0, "layer 2 does not exist; the model has layers 0 to 1"),
        ({0: np.zeros(15)}, 1.0, r"the vector of layer 0 have the shape \(15,\)"),
        ({0: np.zeros(16)}, np.inf, "a finite strength"),
    ],
)
def test_strange_vectors_are_refused(vectors, strength, words):
    model = tiny_model()
    with pytest.raises(CraneError, match=words), pushed(model, vectors, strength=strength):
        pass
    assert hook_count(model) == 0


def test_documents_that_are_too_short_are_refused():
    with pytest.raises(CraneError, match="no document has more than the 1 tokens"):
        mean_activations(tiny_model(), [[3]])
