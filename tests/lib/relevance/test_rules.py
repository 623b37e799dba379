import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.relevance import RULES, relevance_rules
from crane_lib.relevance.hooks import frozen
from tests.lib.relevance.tiny import documents, hook_count, tiny_model

IDS = documents([9])[0][None]


def weight_gradient(model):
    """Gradient of one early weight: any rule still in force would change it."""
    weight = model.model.layers[0].mlp.gate_proj.weight
    return torch.autograd.grad(model(IDS).logits.square().mean(), weight)[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_forward_values_are_bit_identical(rule, dtype, attention):
    model = tiny_model("qwen2", dtype=dtype, attention=attention)
    before = model(IDS, output_hidden_states=True)
    with relevance_rules(model, rule):
        inside = model(IDS, output_hidden_states=True)
        with torch.no_grad():
            assert torch.equal(model(IDS).logits, before.logits)
    assert torch.equal(inside.logits, before.logits)
    assert all(map(torch.equal, inside.hidden_states, before.hidden_states))


@pytest.mark.parametrize("rule", ["attnlrp", "cplrp"])
def test_the_model_leaves_as_it_came(rule):
    model = tiny_model()
    ordinary, hooks = weight_gradient(model), hook_count(model)
    forwards = [module.forward for module in model.modules()]
    with relevance_rules(model, rule):
        assert hook_count(model) > hooks
        assert [module.forward for module in model.modules()] == forwards
        if rule == "attnlrp":
            assert not torch.allclose(weight_gradient(model), ordinary)
    assert hook_count(model) == hooks
    assert torch.equal(weight_gradient(model), ordinary)


def test_the_model_leaves_as_it_came_after_an_exception():
    model = tiny_model()
    ordinary, hooks = weight_gradient(model), hook_count(model)
    with pytest.raises(ZeroDivisionError), relevance_rules(model):
        raise ZeroDivisionError
    assert hook_count(model) == hooks
    assert torch.equal(weight_gradient(model), ordinary)
    with relevance_rules(model):
        pass


def test_another_model_in_the_process_is_unaffected():
    model, other = tiny_model(), tiny_model(random_seed=5)
    ordinary = weight_gradient(other)
    with relevance_rules(model):
        assert torch.equal(weight_gradient(other), ordinary)
        with relevance_rules(other):
            assert not torch.allclose(weight_gradient(other), ordinary)
        assert torch.equal(weight_gradient(other), ordinary)


def test_the_user_s_hooks_survive_and_fire():
    model = tiny_model()
    fired = []
    handles = [
        model.model.norm.register_forward_hook(lambda *_: fired.append("norm")),
        model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda *_: fired.append("down")),
        model.model.layers[0].mlp.act_fn.register_full_backward_hook(lambda *_: fired.append("activation")),
    ]
    hooks = hook_count(model)
    with relevance_rules(model):
        model(IDS).logits.sum().backward()
    assert sorted(fired) == ["activation", "down", "norm"]
    assert hook_count(model) == hooks
    model(IDS)
    assert len(fired) == 5
    for handle in handles:
        handle.remove()


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
