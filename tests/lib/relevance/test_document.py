import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from crane_lib.errors import CraneError
from crane_lib.relevance import OBJECTIVES, RULES, SITES, document_relevance, families
from tests.lib.relevance.tiny import KINDS, distance, documents, hook_count, padded, slow_pass, tiny_model

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


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_agrees_with_the_slow_pass(kind, rule, objective):
    model = tiny_model(kind)
    (ids,) = documents([13])
    seen = document_relevance(model, ids[None], rule=rule, objective=objective)
    expected = slow_pass(model, ids, rule=rule, objective=objective)
    for field in FIELDS:
        if rule == "cplrp" and field == "gate":
            assert not seen.gate.any()
            assert not expected["gate"].any()
        else:
            assert distance(getattr(seen, field)[0], expected[field]) < 1e-6, field
    assert torch.equal(seen.active[0], expected["active"])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    half_size=st.integers(1, 4),
    layers=st.integers(1, 3),
    intermediate=st.integers(1, 30),
    length=st.integers(1, 12),
    tied=st.booleans(),
)
def test_any_shape_agrees_with_the_slow_pass(kv_heads, group, half_size, layers, intermediate, length, tied):
    model = tiny_model(
        hidden_size=2 * half_size * kv_heads * group,
        num_attention_heads=kv_heads * group,
        num_key_value_heads=kv_heads,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        tie_word_embeddings=tied,
    )
    (ids,) = documents([length])
    seen, expected = document_relevance(model, ids[None]), slow_pass(model, ids)
    for field in FIELDS:
        assert distance(getattr(seen, field)[0], expected[field]) < 1e-5, field


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_cplrp_conserves_on_a_model_without_biases(attention):
    model = tiny_model("llama", attention=attention)
    seen = document_relevance(model, *padded(documents([5, 12, 1])), rule="cplrp")
    torch.testing.assert_close(seen.token.sum(1), seen.target, rtol=1e-6, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_padded_batch_equals_single_documents(attention, rule, objective):
    model = tiny_model("qwen2", attention=attention)
    rows = documents([9, 2, 14, 5])
    ids, mask = padded(rows)
    batch = document_relevance(model, ids, mask, rule=rule, objective=objective)
    assert batch.lengths.tolist() == [9, 2, 14, 5]
    assert not batch.token[mask == 0].any()
    for index, row in enumerate(rows):
        single = document_relevance(model, row[None], rule=rule, objective=objective)
        assert torch.equal(batch.active[index], single.active[0])
        torch.testing.assert_close(batch.token[index, : len(row)], single.token[0], rtol=1e-5, atol=1e-7)
        for field in ("target", *SITES):
            torch.testing.assert_close(getattr(batch, field)[index], getattr(single, field)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_eager_equals_sdpa(rule):
    ids, mask = padded(documents([9, 14]))
    eager = document_relevance(tiny_model(attention="eager"), ids, mask, rule=rule)
    sdpa = document_relevance(tiny_model(attention="sdpa"), ids, mask, rule=rule)
    for field in FIELDS:
        if getattr(eager, field).any():
            assert distance(getattr(sdpa, field), getattr(eager, field)) < 5e-6, field


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


def test_the_model_leaves_as_it_came_after_a_failure():
    model = tiny_model()
    with pytest.raises(IndexError):
        document_relevance(model, torch.tensor([[1, 999]]))
    assert hook_count(model) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())
    document_relevance(model, torch.tensor([[1, 2]]))


def test_bad_batches_are_refused():
    model = tiny_model()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(CraneError, match="pad on the right"):
        document_relevance(model, ids, torch.tensor([[1, 1, 1], [0, 1, 1]]))
    with pytest.raises(CraneError, match="document 1 has 0 tokens"):
        document_relevance(model, ids, torch.tensor([[1, 1, 1], [0, 0, 0]]))
    with pytest.raises(CraneError, match="document 1 has 1 tokens; this objective needs at least 2"):
        document_relevance(model, ids, torch.tensor([[1, 1, 1], [1, 0, 0]]), objective="log_probability")
    with pytest.raises(CraneError, match=r"expected \(documents, tokens\)"):
        document_relevance(model, ids[0])
    with pytest.raises(CraneError, match=r"attention_mask is \(1, 3\)"):
        document_relevance(model, ids, torch.ones(1, 3))
