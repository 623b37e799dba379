"""Single neurons ablated many at once, against masking one after the other."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from crane_lib import ablation
from crane_lib.ablation import ablation_effects
from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from tests.lib.relevance.tiny import FAMILY_KINDS, documents, hook_count, tiny_model

CORPUS = [row.tolist() for row in documents([9, 4, 12, 9, 2])]


def slow_effects(model, corpus):
    """One neuron after the other, one document after the other."""
    layers, width = model.config.num_hidden_layers, ablation.parts_of(model).widths["neuron"]
    before = document_nll(model, corpus, token_budget=1)[0]
    found = np.zeros((len(corpus), layers, width))
    for layer in range(layers):
        for neuron in range(width):
            index = [np.array([neuron] if n == layer else [], dtype=np.int64) for n in range(layers)]
            with masked(model, NeuronSet(sites={"neuron": index}, widths={"neuron": width})):
                found[:, layer, neuron] = document_nll(model, corpus, token_budget=1)[0] - before
    return found


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_every_neuron_of_every_family_is_as_if_masked_by_itself(kind):
    model = tiny_model(kind)
    expected = slow_effects(model, CORPUS)
    assert expected.shape == (len(CORPUS), 2, ablation.parts_of(model).widths["neuron"])
    assert np.abs(expected).max() > 0.1
    for token_budget in [1, 30, 100, 10_000] if kind == "llama" else [100]:
        told = []
        found = ablation_effects(model, CORPUS, token_budget=token_budget, progress=lambda *step: told.append(step))  # noqa: B023
        assert told == sorted(told)
        assert (told[0], told[-1]) == ((0, expected.size), (expected.size, expected.size))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_some_neurons_have_the_effects_that_they_have_among_all(kind):
    model, told = tiny_model(kind), []
    every = ablation_effects(model, CORPUS, token_budget=100)
    some = np.random.default_rng(0).random(every.shape[1:]) < 0.3
    some[0] = False
    found = ablation_effects(model, CORPUS, token_budget=100, neurons=some, progress=lambda *step: told.append(step))
    total = len(CORPUS) * int(some.sum())
    assert (told[0], told[-1]) == ((0, total), (total, total))
    np.testing.assert_allclose(found[:, some], every[:, some], rtol=1e-6, atol=1e-5)
    assert np.isnan(found[:, ~some]).all()


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_restored(fails, monkeypatch):
    model = tiny_model().train()
    layers = model.model.layers
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    if fails:
        monkeypatch.setattr(layers[1], "forward", lambda *_given, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        ablation_effects(model, CORPUS[:2], token_budget=100)
    assert model.model.layers is layers
    assert model.training
    assert hook_count(model) == 0
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("corpus", "words"),
    [([], "at least two tokens"), ([[1, 2], [3]], "at least two tokens"), (CORPUS, "an NLL is not finite")],
)
def test_nothing_to_predict_or_values_that_overflow(corpus, words):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(CraneError, match=words):
        ablation_effects(model, corpus, token_budget=100)


def test_a_layer_keeps_its_place_among_layers_that_attend_differently():
    """Longer documents than the window: the numbers of the layers decide what they see."""
    settings = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "num_hidden_layers": 3}
    model = tiny_model("qwen2", **settings)
    assert len(set(model.config.layer_types)) == 2
    np.testing.assert_allclose(
        ablation_effects(model, CORPUS, token_budget=100), slow_effects(model, CORPUS), rtol=1e-6, atol=1e-5
    )
