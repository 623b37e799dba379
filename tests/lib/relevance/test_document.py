"""Relevance of documents on Llama and Qwen2; see `test_families_exact.py` for every family."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from crane_lib.errors import CraneError
from crane_lib.relevance import OBJECTIVES, RULES, SITES, document_relevance, families
from crane_lib.relevance.modules import parts_of
from tests.lib.relevance.tiny import KINDS, ORACLE_NAMES, distance, documents, hook_count, padded, tiny_model

FIELDS = ("target", "token", *SITES)


def oracle_distances(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    expected = load_file(folder / "expected.safetensors")
    for sequence in range(3):
        seen = document_relevance(model, expected[f"{sequence}.input_ids"][None])
        for name, field in ORACLE_NAMES.items():
            value = getattr(seen, field)
            yield distance(value if field == "target" else value[0], expected[f"{sequence}.{name}"])


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_lxt_up_to_its_stabiliser(kind, oracles, monkeypatch):
    assert max(oracle_distances(oracles / kind)) < 1e-6
    monkeypatch.setitem(families.QUOTIENTS, "SiLUActivation", lambda g: F.silu(g) / (g + 1e-10))
    assert max(oracle_distances(oracles / kind)) < 5e-8


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_lower_precision_stays_near(dtype, tolerance, objective):
    ids, mask = padded(documents([9, 14]))
    exact = document_relevance(tiny_model(dtype=dtype).double(), ids, mask, objective=objective)
    seen = document_relevance(tiny_model(dtype=dtype), ids, mask, objective=objective)
    for field in FIELDS:
        assert getattr(seen, field).dtype == torch.float32
        assert distance(getattr(seen, field), getattr(exact, field)) < tolerance, field


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_restored_and_gradients_may_be_off_or_parameters_frozen(mode):
    model = tiny_model(attention_dropout=0.5)
    (ids,) = documents([10])
    expected = document_relevance(model, ids[None])
    model.train()  # dropout is off inside
    model.model.layers[0].eval()
    training = [module.training for module in model.modules()]
    frozen = model if mode is torch.no_grad else model.model.norm
    frozen.requires_grad_(False)
    before = [(parameter.clone(), parameter.requires_grad) for parameter in model.parameters()]
    with mode():
        seen = document_relevance(model, ids[None])
    assert torch.equal(seen.neuron, expected.neuron)
    assert not seen.neuron.requires_grad
    assert [module.training for module in model.modules()] == training
    for parameter, (value, trainable) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == trainable
        assert parameter.grad is None
    assert hook_count(model) == 0


@pytest.mark.parametrize(
    ("ids", "mask", "options", "message"),
    [
        ([[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [0, 1, 1]], {}, "pad on the right"),
        ([[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [0, 0, 0]], {}, "document 1 has 0 tokens"),
        ([[1, 2], [4, 5]], [[1, 1], [1, 0]], {"objective": "log_probability"}, "1 has 1 tokens; .* needs at least 2"),
        ([1, 2, 3], None, {}, r"expected \(documents, tokens\)"),
        ([[1, 2, 3], [4, 5, 6]], [[1, 1, 1]], {}, r"attention_mask is \(1, 3\)"),
        (
            [[1, 2, 3], [4, 5, 6]],
            [[1, 1, 1], [1, 1, 0]],
            {"skip_first_tokens": 2},
            "1 has 2 tokens; .* at least 3",
        ),
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
def test_the_tokens_of_a_watched_neuron_add_up_and_watching_changes_nothing(kind, rule, checkpointing):
    model = tiny_model(kind)
    ids, mask = padded(documents([9, 5, 13]))
    entered = []
    down = parts_of(model).layers[1].down
    hook = down.register_forward_pre_hook(lambda _module, args: entered.append(args[0].detach()[..., 3]))
    seen = document_relevance(model, ids, mask, rule=rule, checkpointing=checkpointing, watch=(1, 3))
    hook.remove()
    torch.testing.assert_close(seen.watched.relevance.sum(1), seen.neuron[:, 1, 3])
    torch.testing.assert_close(seen.watched.relevance.abs().sum(1), seen.abs_neuron[:, 1, 3])
    torch.testing.assert_close(seen.watched.activation, entered[0] * mask.bool())
    assert torch.equal(seen.watched.fires.sum(1), seen.active[:, 1, 3])
    assert seen.watched.relevance.any()
    plain = document_relevance(model, ids, mask, rule=rule, checkpointing=checkpointing)
    assert plain.watched is None
    assert all(torch.equal(values, seen.sites[site]) for site, values in plain.sites.items())
    assert hook_count(model) == 0
