"""Every model family compared with the slow pass (`slow.py`); rules on, off, and after errors."""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from crane_lib.errors import CraneError
from crane_lib.precision import InDouble
from crane_lib.relevance import OBJECTIVES, RULES, SITES, document_relevance, parts_of, relevance_rules
from tests.lib.relevance.slow import slow_logits, slow_pass
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
    assert set(found.sites) == set(SITES) - (set() if gated else {"gate"})
    assert torch.equal(found.active[0], expected.pop("active"))
    far = {field: apart(getattr(found, field)[0].double(), value) for field, value in expected.items()}
    return {field: value for field, value in far.items() if not value < tolerance}


def apart(seen, expected):
    """Distance of values, absolute where all that is expected is 0."""
    return distance(seen, expected) if expected.any() else float(seen.abs().max())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_slow_pass_without_rules_is_autograd_through_the_model(name, objective):
    model = variant(name)
    expected, logits = slow_pass(model, IDS, rule="gradient", objective=objective), slow_logits(model, IDS)
    with torch.no_grad():
        assert distance(model(IDS[None]).logits[0], logits) < 5e-6
    down, inner = [layer.down for layer in parts_of(model).layers], []
    for module in down:
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].retain_grad(), inner.append(inputs[0]))[0])
    with InDouble():
        embedded = model.get_input_embeddings()(IDS[None]).detach().requires_grad_()
        found = model(inputs_embeds=embedded).logits[0]
        if objective == "gold_logit":
            target = (found[range(13), IDS[1:]].sum() + found[-1].max()) / 14
        else:
            target = -functional.cross_entropy(found[:-1], IDS[1:])
        target.backward()
    relevance = torch.cat([h * h.grad for h in inner]).detach()  # (L, T, I)
    assert distance(found.detach(), logits) < 1e-12
    assert distance(target.detach(), expected["target"]) < 1e-12
    assert distance((embedded * embedded.grad).sum(-1)[0].detach(), expected["token"]) < EIGHT_DIGITS
    assert distance(relevance.sum(1), expected["neuron"]) < EIGHT_DIGITS
    assert distance(relevance.abs().sum(1), expected["abs_neuron"]) < EIGHT_DIGITS
    if model.config.model_type == "qwen3_moe":
        gradients = [layer.mlp.experts.down_proj.grad.sum((0, 2)) for layer in model.model.layers]
    else:
        gradients = [m.weight.grad.sum(0 if model.config.model_type == "gpt2" else 1) for m in down]
    assert distance(torch.stack(gradients), expected["down"]) < EIGHT_DIGITS


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", VARIANTS)
def test_agrees_with_the_slow_pass_in_float64_and_cplrp_conserves(name, rule, objective):
    model, tolerance = variant(name), EIGHT_DIGITS if name.startswith("bloom") and rule == "gradient" else 1e-12
    assert not disagreement(model, IDS, within=InDouble(), tolerance=tolerance, rule=rule, objective=objective)
    if (rule, objective) == ("cplrp", "gold_logit"):
        ids, mask = padded(documents([6, 14, 1]))
        with InDouble():
            found = document_relevance(without_constants(model), ids, mask, rule="cplrp")
        torch.testing.assert_close(found.token.sum(1), found.target, rtol=1e-10, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "attention"), KIND_AND_ATTENTION)
def test_agrees_with_the_slow_pass_as_the_model_computes(kind, attention, rule, objective):
    model = tiny_model(kind, attention=attention)
    assert not disagreement(model, IDS, within=nullcontext(), tolerance=ALONE[kind], rule=rule, objective=objective)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "attention"), KIND_AND_ATTENTION)
def test_a_padded_batch_equals_single_documents_in_eager_attention(kind, attention, rule):
    model, eager = tiny_model(kind, attention=attention), tiny_model(kind)
    rows = documents([9, 1, 14, 5])  # the second is further from the end than any sliding window reaches
    ids, mask = padded(rows)
    with InDouble():
        batch = document_relevance(model, ids, mask, rule=rule)
        singles = [document_relevance(eager, row[None], rule=rule) for row in rows]
        again = document_relevance(model, ids, mask, rule=rule, checkpointing=True)
    for name, value in (batch.sites | {"token": batch.token, "target": batch.target, "active": batch.active}).items():
        assert torch.equal(getattr(again, name), value), name
    assert not batch.token[mask == 0].any()
    if rule == "cplrp" and kind in GATED_KINDS:
        assert not batch.sites["gate"].any()
    for index, (row, single) in enumerate(zip(rows, singles, strict=True)):
        assert distance(batch.target[index], single.target[0]) < 1e-10
        assert distance(batch.token[index, : len(row)], single.token[0]) < 1e-10
        assert torch.equal(batch.active[index], single.active[0])
        for site, values in single.sites.items():
            assert apart(batch.sites[site][index], values[0]) < 1e-10, site


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
def test_the_forward_is_bit_identical_and_everything_finite(kind, attention, rule, dtype):
    model = tiny_model(kind, attention=attention, dtype=dtype)
    # the last pads still see a token: where a sliding window holds none, plain eager attention in float64 is NaN
    ids, mask = padded(documents([12, 14]))
    before = model(ids, attention_mask=mask).logits
    with relevance_rules(model, rule):
        assert torch.equal(model(ids, attention_mask=mask).logits, before)
    assert torch.equal(model(ids, attention_mask=mask).logits, before)
    found = document_relevance(model, ids, mask, rule=rule)
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
def test_the_model_is_restored_and_another_of_the_same_config_object_unaffected(kind, attention, rule):
    model = tiny_model(kind, attention=attention)
    other = tiny_model(kind, config=model.config, random_seed=5)
    assert other.config is model.config
    before, ordinary, others = states(model), gradients(model), gradients(other)
    with relevance_rules(model, rule):
        assert all(map(torch.equal, gradients(other), others))
        assert rule == "gradient" or not all(map(torch.allclose, gradients(model), ordinary))
        assert all(map(torch.equal, gradients(other), others))
    assert states(model) == before
    with pytest.raises(ZeroDivisionError), relevance_rules(model, rule):
        raise ZeroDivisionError
    assert states(model) == before
    assert all(map(torch.equal, gradients(model), ordinary))
    assert all(map(torch.equal, gradients(other), others))
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_the_model_is_restored_after_a_failed_pass(kind, backward, checkpointing):
    model = tiny_model(kind)
    before = states(model)
    final_norm = [module for module in model.modules() if "Norm" in type(module).__name__][-1]
    register = final_norm.register_full_backward_hook if backward else final_norm.register_forward_hook
    handle = register(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        document_relevance(model, IDS[None], checkpointing=checkpointing)
    handle.remove()
    assert states(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nesting_float16_and_unknown_rules_are_refused():
    model, other = tiny_model(), tiny_model(random_seed=5)
    with relevance_rules(model, "gradient"), relevance_rules(other):
        for rule in ("attnlrp", "gradient"):
            with pytest.raises(CraneError, match="already in force"), relevance_rules(model, rule):
                pass
    with relevance_rules(model):
        pass
    with pytest.raises(CraneError, match="float16"), relevance_rules(tiny_model(dtype=torch.float16)):
        pass
    with pytest.raises(CraneError, match=r"'lrp'.*attnlrp, cplrp, gradient"), relevance_rules(model, "lrp"):
        pass


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_the_user_s_hooks_survive_and_fire(kind):
    model = tiny_model(kind)
    expected = document_relevance(model, IDS[None])
    calls, handles = Counter(), []
    for name, module in model.named_modules():
        if name.endswith("experts.act_fn"):  # called once for all experts, or for each by itself
            continue
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
