"""Every model family compared with the slow pass (`slow.py`); rules on, off, and after errors."""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crane_lib.precision import InDouble
from crane_lib.relevance import OBJECTIVES, RULES, document_relevance, relevance_rules
from tests.lib.relevance.slow import slow_pass
from tests.lib.relevance.tiny import (
    FAMILY_KINDS,
    GATED_KINDS,
    VARIANTS,
    attentions,
    distance,
    documents,
    hook_count,
    padded,
    tiny_model,
    variant,
    without_constants,
)

(IDS,) = documents([14])
KIND_AND_ATTENTION = [(kind, attention) for kind in FAMILY_KINDS for attention in attentions(kind)]
EIGHT_DIGITS = 1e-8  # BLOOM writes the constants of the derivative of its activation so
# Alone, most families compute norms, softmax and rotary angles in float32, and Gemma has six norms in a layer.
ALONE = dict.fromkeys(FAMILY_KINDS, 1e-6) | {"gemma2": 5e-6, "gemma3_text": 5e-6, "gpt2": 1e-12}


def disagreement(model, ids, *, within, tolerance, rule, objective):
    """Fields of the relevance of one document that differ from the slow pass by more than `tolerance`."""
    with within:
        found = document_relevance(model, ids[None], rule=rule, objective=objective)
    expected = slow_pass(model, ids, rule=rule, objective=objective)
    gated = model.config.model_type in GATED_KINDS
    assert set(found.sites) == {"neuron", "abs_neuron", "up", "down"} | ({"gate"} if gated else set())
    far = {} if torch.equal(found.active[0], expected.pop("active")) else {"active": None}
    for field, value in expected.items():
        seen = getattr(found, field)[0]
        if value.any():
            far[field] = distance(seen.double(), value)
        else:
            far[field] = float(seen.abs().max())
    return {field: value for field, value in far.items() if value is None or not value < tolerance}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", VARIANTS)
def test_agrees_with_the_slow_pass_in_float64(name, rule, objective):
    tolerance = EIGHT_DIGITS if name.startswith("bloom") and rule == "gradient" else 1e-12
    assert not disagreement(variant(name), IDS, within=InDouble(), tolerance=tolerance, rule=rule, objective=objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "attention"), KIND_AND_ATTENTION)
def test_agrees_with_the_slow_pass_as_the_model_computes(kind, attention, rule, objective):
    model = tiny_model(kind, attention=attention)
    assert not disagreement(model, IDS, within=nullcontext(), tolerance=ALONE[kind], rule=rule, objective=objective)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_checkpointing_changes_nothing(kind, rule):
    model = tiny_model(kind)
    ids, mask = padded(documents([9, 3, 14]))
    kept = document_relevance(model, ids, mask, rule=rule)
    again = document_relevance(model, ids, mask, rule=rule, checkpointing=True)
    for field in ("target", "token", "active"):
        assert torch.equal(getattr(again, field), getattr(kept, field)), field
    assert all(torch.equal(again.sites[site], values) for site, values in kept.sites.items())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "attention"), KIND_AND_ATTENTION)
def test_a_padded_batch_equals_single_documents(kind, attention, rule):
    model = tiny_model(kind, attention=attention)
    rows = documents([9, 1, 14, 5])  # the second is further from the end than any sliding window reaches
    ids, mask = padded(rows)
    with InDouble():
        batch = document_relevance(model, ids, mask, rule=rule)
        singles = [document_relevance(model, row[None], rule=rule) for row in rows]
    assert not batch.token[mask == 0].any()
    for index, (row, single) in enumerate(zip(rows, singles, strict=True)):
        assert distance(batch.target[index], single.target[0]) < 1e-10
        assert distance(batch.token[index, : len(row)], single.token[0]) < 1e-10
        assert torch.equal(batch.active[index], single.active[0])
        for site, values in single.sites.items():
            if values.any():
                assert distance(batch.sites[site][index], values[0]) < 1e-10, site
            else:
                assert not batch.sites[site][index].any(), site


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", [kind for kind in FAMILY_KINDS if "sdpa" in attentions(kind)])
def test_eager_equals_sdpa(kind, rule):
    ids, mask = padded(documents([9, 14]))
    with InDouble():
        eager = document_relevance(tiny_model(kind, attention="eager"), ids, mask, rule=rule)
        sdpa = document_relevance(tiny_model(kind, attention="sdpa"), ids, mask, rule=rule)
    assert distance(sdpa.token, eager.token) < 1e-10
    for site, values in eager.sites.items():
        assert distance(sdpa.sites[site], values) < 1e-10 if values.any() else not sdpa.sites[site].any(), site


@pytest.mark.parametrize("name", VARIANTS)
def test_cplrp_conserves_without_biases(name):
    model = without_constants(variant(name))
    ids, mask = padded(documents([6, 14, 1]))
    with InDouble():
        found = document_relevance(model, ids, mask, rule="cplrp")
    torch.testing.assert_close(found.token.sum(1), found.target, rtol=1e-10, atol=0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["llama", "gemma2", "phi3", "gpt_neox"]),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    size=st.sampled_from([4, 8]),
    layers=st.integers(1, 3),
    intermediate=st.integers(1, 30),
    length=st.integers(2, 12),
    tied=st.booleans(),
    rule=st.sampled_from(list(RULES)),
    objective=st.sampled_from(list(OBJECTIVES)),
)
def test_any_shape_agrees_with_the_slow_pass(
    kind, key_heads, group, size, layers, intermediate, length, tied, rule, objective
):
    """Gated families, one with every kind of cap and norm and one with fused projections, and one without a gate."""
    shape = {"num_key_value_heads": key_heads} if kind != "gpt_neox" else {"rotary_pct": 0.5}
    if kind == "gemma2":
        types = ["full_attention", "sliding_attention", "full_attention"]
        shape |= {"head_dim": size + 2, "layer_types": types[:layers]}
    model = tiny_model(
        kind,
        hidden_size=size * key_heads * group,
        num_attention_heads=key_heads * group,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        tie_word_embeddings=tied,
        **shape,
    )
    (ids,) = documents([length])
    assert not disagreement(model, ids, within=InDouble(), tolerance=1e-10, rule=rule, objective=objective)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "attention"), KIND_AND_ATTENTION)
def test_the_forward_is_bit_identical(kind, attention, rule, dtype):
    model = tiny_model(kind, attention=attention, dtype=dtype)
    # the last pads still see a token: where a sliding window holds none, plain eager attention in float64 is NaN
    ids, mask = padded(documents([12, 14]))
    before = model(ids, attention_mask=mask).logits
    with relevance_rules(model, rule):
        assert torch.equal(model(ids, attention_mask=mask).logits, before)
    assert torch.equal(model(ids, attention_mask=mask).logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_everything_is_finite_in_lower_precision(kind, rule, dtype):
    ids, mask = padded(documents([9, 14]))
    found = document_relevance(tiny_model(kind, dtype=dtype), ids, mask, rule=rule)
    for name, values in (found.sites | {"token": found.token, "target": found.target}).items():
        assert values.isfinite().all(), name
        assert values.any() or (rule, name) == ("cplrp", "gate"), name


def gradients(model):
    """Plain gradients of all parameters, which any rule would change."""
    loss = model(IDS[None]).logits.square().mean()
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)


def states(model):
    """State that a pass might change: hooks, attributes and settings."""
    own = {name: sorted(vars(module)) for name, module in model.named_modules()}
    return hook_count(model), own, model.config.to_dict(), model.config._attn_implementation


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "attention"), KIND_AND_ATTENTION)
def test_another_model_of_the_same_config_object_is_unaffected(kind, attention, rule):
    model = tiny_model(kind, attention=attention)
    other = tiny_model(kind, config=model.config, random_seed=5)
    assert other.config is model.config
    before = gradients(other)
    with relevance_rules(model, rule):
        assert all(map(torch.equal, gradients(other), before))
        model(IDS[None])
        assert all(map(torch.equal, gradients(other), before))
    assert all(map(torch.equal, gradients(other), before))


@pytest.mark.parametrize("rule", ["attnlrp", "cplrp"])
@pytest.mark.parametrize(("kind", "attention"), KIND_AND_ATTENTION)
def test_the_model_leaves_as_it_came_after_an_exception(kind, attention, rule):
    model = tiny_model(kind, attention=attention)
    before, ordinary = states(model), gradients(model)
    with relevance_rules(model, rule):
        assert not all(map(torch.allclose, gradients(model), ordinary))
    assert states(model) == before
    with pytest.raises(ZeroDivisionError), relevance_rules(model, rule):
        raise ZeroDivisionError
    assert states(model) == before
    assert all(map(torch.equal, gradients(model), ordinary))
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_the_model_leaves_as_it_came_after_a_failed_pass(kind, backward, checkpointing):
    model = tiny_model(kind)
    before = states(model)

    def fail(*_):
        raise ZeroDivisionError

    final_norm = [module for module in model.modules() if "Norm" in type(module).__name__][-1]
    register = final_norm.register_full_backward_hook if backward else final_norm.register_forward_hook
    handle = register(fail)
    with pytest.raises(ZeroDivisionError):
        document_relevance(model, IDS[None], checkpointing=checkpointing)
    handle.remove()
    assert states(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_the_user_s_hooks_survive_and_fire(kind):
    model = tiny_model(kind)
    expected = document_relevance(model, IDS[None])
    calls, handles = Counter(), []
    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(lambda *_, name=name: calls.update([name])))
        if "Norm" in type(module).__name__ or name.endswith(("proj", "act", "act_fn", "dense")):
            handles.append(module.register_full_backward_hook(lambda *_, name=name: calls.update([f"{name}, back"])))
    outside = hook_count(model)
    gradients(model)
    once = dict(calls)
    assert any(name.endswith("back") for name in once)
    with relevance_rules(model):
        gradients(model)
    assert calls == {name: 2 * number for name, number in once.items()}
    assert torch.equal(document_relevance(model, IDS[None]).token, expected.token)
    assert hook_count(model) == outside
    for handle in handles:
        handle.remove()
