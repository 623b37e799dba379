"""Rules on Llama: nesting, refusals, and limits; see `test_families_exact.py` for every family."""

import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.relevance import relevance_rules
from crane_lib.relevance.hooks import frozen
from tests.lib.relevance.tiny import documents, tiny_model

IDS = documents([9])[0][None]


def weight_gradient(model):
    """Gradient of one early weight, which any rule would change."""
    weight = model.model.layers[0].mlp.gate_proj.weight
    return torch.autograd.grad(model(IDS).logits.square().mean(), weight)[0]


def test_another_model_in_the_process_is_unaffected():
    model, other = tiny_model(), tiny_model(random_seed=5)
    ordinary = weight_gradient(other)
    with relevance_rules(model):
        assert torch.equal(weight_gradient(other), ordinary)
        with relevance_rules(other):
            assert not torch.allclose(weight_gradient(other), ordinary)
        assert torch.equal(weight_gradient(other), ordinary)


def test_nesting_is_refused():
    model = tiny_model()
    with relevance_rules(model, "gradient"):
        with pytest.raises(CraneError, match="already in force"), relevance_rules(model):
            pass
        with pytest.raises(CraneError, match="already in force"), relevance_rules(model, "gradient"):
            pass
    with relevance_rules(model):
        pass


def test_float16_and_unknown_rules_are_refused():
    with pytest.raises(CraneError, match="float16"), relevance_rules(tiny_model(dtype=torch.float16)):
        pass
    with pytest.raises(CraneError, match=r"'lrp'.*attnlrp, cplrp, gradient"), relevance_rules(tiny_model(), "lrp"):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("g", [0.0, 1e-10, -1e-10])
def test_gradient_through_an_activation_near_zero(dtype, g):
    model = tiny_model(dtype=dtype)
    activation = model.model.layers[0].mlp.act_fn
    gate = torch.full((1, 1, 20), g, dtype=dtype, requires_grad=True)
    with relevance_rules(model):
        activation(gate).sum().backward()
    assert (gate.grad == 0.5).all()


def test_frozen_restores_training_mode_and_trainable_parameters():
    model = tiny_model().train()
    model.model.layers[0].eval()
    model.model.norm.weight.requires_grad_(False)
    training = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    with frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ZeroDivisionError), frozen(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == training
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
