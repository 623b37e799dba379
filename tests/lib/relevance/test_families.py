import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel
from transformers.activations import ACT2FN

from crane_lib.errors import CraneError
from crane_lib.relevance import document_relevance
from crane_lib.relevance.families import FAMILIES, QUOTIENTS
from crane_lib.relevance.modules import family_of, parts_of
from tests.lib.relevance.tiny import FAMILY_KINDS, documents, tiny_model


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_parts_are_the_model_s_own_modules(kind):
    model = tiny_model(kind)
    parts = parts_of(model)
    assert len(parts.layers) == 2
    assert parts.head is model.get_output_embeddings()
    assert parts.embedding is model.get_input_embeddings()
    assert parts.backbone is model.get_submodule(model.base_model_prefix)
    norms = [module for module in parts.backbone.modules() if "norm" in type(module).__name__.lower()]
    assert {id(norm) for norm in parts.norms} == {id(norm) for norm in norms}
    assert parts.widths["down"] == model.config.hidden_size
    for layer in parts.layers:
        assert set(layer.rows) == set(parts.widths) - {"neuron", "head"}
        for site, rows in layer.rows.items():
            assert rows.weight().shape[0] == len(rows) == parts.widths[site]
        assert layer.rows["down"].weight().shape[1] == parts.widths["neuron"]
        heads = model.config.num_attention_heads
        size = getattr(model.config, "head_dim", None) or model.config.hidden_size // heads
        assert layer.output.weight().shape == (model.config.hidden_size, heads * size)
        assert layer.by_head(layer.output.weight()).shape[1:] == (heads, size) == (parts.widths["head"], size)
        if kind == "phi3":
            gate, up = layer.rows["gate"], layer.rows["up"]  # the halves of a fused matrix
            assert gate.module is up.module
            assert torch.equal(torch.cat([gate.weight(), up.weight()]), gate.module.weight)
            output = torch.arange(40.0)
            assert torch.equal(torch.cat([gate.of(output), up.of(output)]), output)


def test_every_family_is_compared_with_the_slow_pass():
    assert {*FAMILY_KINDS, "gemma3"} == set(FAMILIES)  # gemma3 is compared with gemma3_text in test_wrappers.py


def test_other_models_and_settings_are_refused_by_name():
    model = BertLMHeadModel(BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, is_decoder=True))
    with pytest.raises(CraneError, match=r"'bert'.*llama, mistral.*gpt_neox"):
        family_of(model)
    with pytest.raises(CraneError, match="Linear"):
        family_of(nn.Linear(2, 2))
    with pytest.raises(CraneError, match=r"LlamaModel has no module 'model"):
        parts_of(tiny_model().model)
    with pytest.raises(CraneError, match=r"model\.layers\.0\.mlp\.act_fn: activation Hardswish .*SiLUActivation"):
        parts_of(tiny_model(hidden_act="hardswish"))
    model = tiny_model("gemma2")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(CraneError, match=r"'flex_attention' caps logits inside its kernel.*eager"):
        document_relevance(model, documents([5])[0][None])
    model = tiny_model("bloom")
    for layer in model.transformer.h:  # it then goes around its modules
        layer.mlp.pretraining_tp, layer.mlp.slow_but_exact = 2, True
    with pytest.raises(CraneError, match="layer 0: its neuron was bypassed"):
        document_relevance(model, documents([5])[0][None])


class _Odd(nn.Module):
    """Neither linear nor a norm nor an activation that is known."""


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("model.layers.1.input_layernorm", nn.GroupNorm(1, 16)),
        ("model.layers.0.self_attn.q_norm", nn.RMSNorm(4)),
        ("model.layers.1.mlp.extra", _Odd()),
        ("model.layers.0.mlp.second", nn.Sigmoid()),
    ],
)
def test_a_module_without_a_rule_is_named(path, module):
    model = tiny_model()
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    with pytest.raises(CraneError) as refused:
        parts_of(model)
    assert str(refused.value).startswith(f"{path}: {type(module).__name__} has no relevance rule; norms that have one")
    assert "families: llama, mistral" in str(refused.value)


def test_a_norm_of_a_known_class_has_its_rule_wherever_it_stands():
    model = tiny_model()
    model.model.layers[1].input_layernorm = nn.LayerNorm(16, dtype=torch.float64)
    found = document_relevance(model, documents([7])[0][None], rule="cplrp")
    torch.testing.assert_close(found.token.sum(1), found.target, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        *("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python"),
        *("quick_gelu", "relu", "relu2", "tanh"),
    ],
)
def test_quotient_times_input_is_the_activation(name):
    activation = ACT2FN[name]
    near = [0.0099999999, 0.01, 0.0100000001]  # where the series of tanh ends
    g = torch.cat([torch.linspace(-30, 30, 2001, dtype=torch.float64), torch.tensor(near, dtype=torch.float64)])
    quotient = QUOTIENTS[type(activation).__name__](g)
    # an activation written with 1 + erf or 1 + tanh cancels far below 0; its quotient does not
    torch.testing.assert_close(quotient * g, activation(g), rtol=1e-15 if name == "tanh" else 1e-12, atol=1e-14)


LIMITS = {"ReLU": 0.0, "ReLUSquaredActivation": 0.0, "Tanh": 1.0}  # of act(g) / g at 0; 1/2 elsewhere


@pytest.mark.parametrize("name", QUOTIENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_quotient_is_finite_everywhere_and_has_its_limit_at_zero(name, dtype):
    tiny = torch.finfo(dtype).smallest_normal
    near = torch.tensor([0.0, -0.0, 1e-10, -1e-10, tiny, -tiny, tiny / 4, -tiny / 4], dtype=dtype)
    if name == "ReLU":
        near = near[near <= 0]  # it has two limits; the one of its slope at 0
    expected = torch.full_like(near, LIMITS.get(name, 0.5))
    torch.testing.assert_close(QUOTIENTS[name](near), expected, rtol=0, atol=max(1e-9, tiny))
    far = torch.tensor([-60000.0, -100.0, -9.0, 9.0, 100.0, 60000.0], dtype=dtype)
    quotient = QUOTIENTS[name](far)
    assert quotient.isfinite().all()
    assert (quotient >= 0).all()
    assert name == "ReLUSquaredActivation" or (quotient <= 1).all()
    assert quotient.dtype == dtype
