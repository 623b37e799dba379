import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.models.bloom.modeling_bloom import BloomGelu

from crane_lib.precision import InDouble
from tests.lib.relevance.slow import ACTIVATIONS, alibi_slopes, elementwise, slow_logits, slow_pass
from tests.lib.relevance.tiny import (
    FAMILY_KINDS,
    KINDS,
    VARIANTS,
    distance,
    documents,
    variant,
    without_constants,
)

DOWN = dict.fromkeys(FAMILY_KINDS, "down_proj") | {
    "gpt2": "mlp.c_proj",
    "bloom": "dense_4h_to_h",
    "gpt_neox": "dense_4h_to_h",
}
ORACLE_NAMES = {
    "target": "target",
    "token_relevance": "token",
    "neuron_relevance": "neuron",
    "neuron_abs_relevance": "abs_neuron",
    "weight_grad_row_sum.gate_proj": "gate",
    "weight_grad_row_sum.up_proj": "up",
    "weight_grad_row_sum.down_proj": "down",
}
TOLERANCE = 1e-8  # BLOOM writes the derivative of its activation with eight digits; the others stay below 1e-12


@pytest.mark.parametrize("name", VARIANTS)
def test_the_slow_forward_is_the_model_s(name):
    model = variant(name)
    (ids,) = documents([14])
    expected = slow_logits(model, ids)
    with torch.no_grad():
        assert distance(model(ids[None]).logits[0], expected) < 5e-6
        with InDouble():
            assert distance(model(ids[None]).logits[0], expected) < 1e-12


@pytest.mark.parametrize("objective", ["gold_logit", "log_probability"])
@pytest.mark.parametrize("name", VARIANTS)
def test_without_rules_it_is_autograd_through_the_model(name, objective):
    model = variant(name)
    (ids,) = documents([14])
    expected = slow_pass(model, ids, rule="gradient", objective=objective)
    down = [module for path, module in model.named_modules() if path.endswith(DOWN[model.config.model_type])]
    inner = []
    for module in down:
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].retain_grad(), inner.append(inputs[0]))[0])
    with InDouble():
        embedded = model.get_input_embeddings()(ids[None]).detach().requires_grad_()
        logits = model(inputs_embeds=embedded).logits[0]
        if objective == "gold_logit":
            target = (logits[range(13), ids[1:]].sum() + logits[-1].max()) / 14
        else:
            target = -F.cross_entropy(logits[:-1], ids[1:])
        target.backward()
    relevance = torch.cat([h * h.grad for h in inner]).detach()  # (L, T, I)
    assert distance(target.detach(), expected["target"]) < 1e-12
    assert distance((embedded * embedded.grad).sum(-1)[0].detach(), expected["token"]) < TOLERANCE
    assert distance(relevance.sum(1), expected["neuron"]) < TOLERANCE
    assert distance(relevance.abs().sum(1), expected["abs_neuron"]) < TOLERANCE
    inputs = 0 if model.config.model_type == "gpt2" else 1
    assert distance(torch.stack([m.weight.grad.sum(inputs) for m in down]), expected["down"]) < TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_cplrp_conserves_without_biases(name):
    model = without_constants(variant(name))
    (ids,) = documents([14])
    found = slow_pass(model, ids, rule="cplrp")
    torch.testing.assert_close(found["token"].sum(), found["target"], rtol=1e-11, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_published_values(kind, oracles):
    model = AutoModelForCausalLM.from_pretrained(oracles / kind, dtype=torch.float64)
    expected = load_file(oracles / kind / "expected.safetensors")
    for sequence in range(3):  # published from norms in float32; one target is small, a sum that cancels
        found = slow_pass(model, expected[f"{sequence}.input_ids"])
        for name, field in ORACLE_NAMES.items():
            assert distance(found[field].flatten(), expected[f"{sequence}.{name}"].flatten()) < 5e-6, name


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_models_own(name):
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    theirs = BloomGelu() if name == "bloom" else ACT2FN[name]
    torch.testing.assert_close(ACTIVATIONS[name](x), theirs(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", ["attnlrp", "cplrp"])
def test_the_identity_rule_keeps_the_value_and_passes_the_quotient(rule):
    x = torch.tensor([-2.0, 0.0, 1e-3, 3.0], dtype=torch.float64, requires_grad=True)
    out = elementwise(ACTIVATIONS["silu"], x, slope_at_zero=0.5, rule=rule)
    torch.testing.assert_close(out, F.silu(x), rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], torch.sigmoid(x), rtol=1e-14, atol=0)


def test_alibi_slopes_are_the_paper_s():
    assert alibi_slopes(8).tolist() == [2.0**-power for power in range(1, 9)]
    assert alibi_slopes(3).tolist() == [2.0**-4, 2.0**-8, 2.0**-2]
    assert alibi_slopes(16)[0] == math.sqrt(0.5)
