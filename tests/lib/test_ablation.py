"""Single neurons ablated many at once, against masking one after the other."""

import numpy as np
import pytest
import torch

from crane_lib import ablation
from crane_lib.ablation import ablation_effects
from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.relevance.families import FAMILIES
from tests.lib.relevance.tiny import FAMILY_KINDS, documents, tiny_model

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
    found = ablation_effects(model, CORPUS, token_budget=100)
    assert found.shape == (len(CORPUS), 2, ablation.parts_of(model).widths["neuron"])
    np.testing.assert_allclose(found, slow_effects(model, CORPUS), rtol=1e-6, atol=1e-5)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("kind", [kind for kind in FAMILY_KINDS if FAMILIES[kind].additive])
def test_going_on_from_a_layer_is_starting_over(kind, monkeypatch):
    model = tiny_model(kind)
    short = ablation_effects(model, CORPUS, token_budget=60)
    monkeypatch.setattr(ablation._UnablatedBatch, "resumed_without", ablation._UnablatedBatch.rerun_without)
    np.testing.assert_allclose(short, ablation_effects(model, CORPUS, token_budget=60), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 30, 10_000])
def test_batches_do_not_matter(token_budget):
    model = tiny_model()
    expected = ablation_effects(model, CORPUS, token_budget=100)
    found = ablation_effects(model, CORPUS, token_budget=token_budget)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_the_model_leaves_as_it_came():
    model = tiny_model().train()
    layers = model.model.layers
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    ablation_effects(model, CORPUS[:2], token_budget=100)
    assert model.model.layers is layers
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_the_model_leaves_as_it_came_after_an_exception(monkeypatch):
    model = tiny_model()
    layers = model.model.layers
    monkeypatch.setattr(layers[1], "forward", lambda *_given, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ablation_effects(model, CORPUS, token_budget=100)
    assert model.model.layers is layers
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_progress_reaches_its_end():
    told = []
    ablation_effects(tiny_model(), CORPUS, token_budget=50, progress=lambda *step: told.append(step))
    assert told[0] == (0, len(CORPUS) * 40)
    assert told[-1] == (len(CORPUS) * 40, len(CORPUS) * 40)
    assert told == sorted(told)


@pytest.mark.parametrize("corpus", [[], [[1, 2], [3]]])
def test_nothing_to_predict(corpus):
    with pytest.raises(CraneError, match="at least two tokens"):
        ablation_effects(tiny_model(), corpus, token_budget=10)


def test_values_that_overflow():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(CraneError, match="not finite"):
        ablation_effects(model, CORPUS, token_budget=100)


def test_a_layer_keeps_its_place_among_layers_that_attend_differently():
    """Longer documents than the window: the numbers of the layers decide what they see."""
    settings = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "num_hidden_layers": 3}
    model = tiny_model("qwen2", **settings)
    assert len(set(model.config.layer_types)) == 2
    np.testing.assert_allclose(
        ablation_effects(model, CORPUS, token_budget=100), slow_effects(model, CORPUS), rtol=1e-6, atol=1e-5
    )
