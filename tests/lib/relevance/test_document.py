"""Relevance of documents on Llama and Qwen2; see `test_families_exact.py` for every family."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from crane_lib.errors import CraneError
from crane_lib.relevance import RULES, SITES, document_relevance, families
from crane_lib.relevance.modules import parts_of
from tests.lib.relevance.tiny import KINDS, distance, documents, hook_count, padded, tiny_model

FIELDS = ("target", "token", *SITES)
ORACLE_NAMES = {
    "target": "target",
    "token_relevance": "token",
    "neuron_relevance": "neuron",
    "neuron_abs_relevance": "abs_neuron",
    "weight_grad_row_sum.gate_proj": "gate",
    "weight_grad_row_sum.up_proj": "up",
    "weight_grad_row_sum.down_proj": "down",
}


def oracle_distances(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    expected = load_file(folder / "expected.safetensors")
    for sequence in range(3):
        seen = document_relevance(model, expected[f"{sequence}.input_ids"][None])
        for name, field in ORACLE_NAMES.items():
            value = getattr(seen, field)
            yield distance(value if field == "target" else value[0], expected[f"{sequence}.{name}"])


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_lxt(kind, oracles):
    assert max(oracle_distances(oracles / kind)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_of_the_difference_to_lxt_is_its_stabiliser(kind, oracles, monkeypatch):
    monkeypatch.setitem(families.QUOTIENTS, "SiLUActivation", lambda g: F.silu(g) / (g + 1e-10))
    assert max(oracle_distances(oracles / kind)) < 5e-8


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_lower_precision_stays_near(dtype, tolerance):
    ids, mask = padded(documents([9, 14]))
    low = tiny_model(dtype=dtype)
    exact, seen = document_relevance(low.double(), ids, mask), document_relevance(low.to(dtype), ids, mask)
    for field in FIELDS:
        assert getattr(seen, field).dtype == torch.float32
        assert distance(getattr(seen, field), getattr(exact, field)) < tolerance, field


def test_the_model_leaves_as_it_came():
    model = tiny_model(attention_dropout=0.5)
    (ids,) = documents([10])
    expected = document_relevance(model, ids[None])
    model.train()
    model.model.norm.weight.requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    seen = document_relevance(model, ids[None])  # dropout is off inside
    assert torch.equal(seen.neuron, expected.neuron)
    assert all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(map(torch.equal, model.parameters(), before))
    assert hook_count(model) == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off_and_with_frozen_parameters(mode):
    model = tiny_model()
    (ids,) = documents([10])
    expected = document_relevance(model, ids[None])
    model.requires_grad_(False)
    with mode():
        seen = document_relevance(model, ids[None])
    assert torch.equal(seen.neuron, expected.neuron)
    assert not seen.neuron.requires_grad


@pytest.mark.parametrize(
    ("ids", "mask", "options", "message"),
    [
        ([[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [0, 1, 1]], {}, "pad on the right"),
        ([[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [0, 0, 0]], {}, "document 1 has 0 tokens"),
        ([[1, 2], [4, 5]], [[1, 1], [1, 0]], {"objective": "log_probability"}, "1 has 1 tokens; .* needs at least 2"),
        ([1, 2, 3], None, {}, r"expected \(documents, tokens\)"),
        ([[1, 2, 3], [4, 5, 6]], [[1, 1, 1]], {}, r"attention_mask is \(1, 3\)"),
        ([[1, 2]], None, {"watch": (2, 0)}, "layer 2: the model has the layers 0 to 1"),
        ([[1, 2]], None, {"watch": (0, -1)}, "neuron -1: a layer of the model has the"),
    ],
)
def test_bad_input_is_refused(ids, mask, options, message):
    mask = None if mask is None else torch.tensor(mask)
    with pytest.raises(CraneError, match=message):
        document_relevance(tiny_model(), torch.tensor(ids), mask, **options)


# --- one neuron, token by token ---


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2"])  # gated, fused, ungated
def test_the_tokens_add_up_to_the_sums(kind, rule, checkpointing):
    model = tiny_model(kind)
    ids, mask = padded(documents([9, 5, 13]))
    entered = []
    layer = parts_of(model).layers[1]
    hook = layer.down.register_forward_pre_hook(lambda _module, args: entered.append(args[0].detach()[..., 3]))
    try:
        seen = document_relevance(model, ids, mask, rule=rule, checkpointing=checkpointing, watch=(1, 3))
    finally:
        hook.remove()
    torch.testing.assert_close(seen.watched.relevance.sum(1), seen.neuron[:, 1, 3])
    torch.testing.assert_close(seen.watched.relevance.abs().sum(1), seen.abs_neuron[:, 1, 3])
    torch.testing.assert_close(seen.watched.activation, entered[0] * mask.bool())
    assert torch.equal(seen.watched.fires.sum(1), seen.active[:, 1, 3])
    assert seen.watched.relevance.any()


def test_watching_changes_nothing_and_leaves_nothing():
    model = tiny_model()
    ids, mask = padded(documents([9, 5]))
    plain, watched = document_relevance(model, ids, mask), document_relevance(model, ids, mask, watch=(0, 0))
    assert plain.watched is None
    for site, values in plain.sites.items():
        assert torch.equal(values, watched.sites[site])
    assert hook_count(model) == 0
