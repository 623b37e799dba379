import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN

from crane_lib.errors import CraneError
from crane_lib.relevance.families import QUOTIENTS, family_of, parts_of
from tests.relevance.tiny import KINDS, tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_model_s_own_modules(kind):
    model = tiny_model(kind)
    parts = parts_of(model)
    assert len(parts.layers) == 2
    assert parts.layers[1].down is model.model.layers[1].mlp.down_proj
    assert parts.layers[0].query is model.model.layers[0].self_attn.q_proj
    assert parts.head is model.get_output_embeddings()
    assert parts.embedding is model.get_input_embeddings()


def test_another_model_type_is_refused_by_name():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=8))
    with pytest.raises(CraneError, match=r"'gpt2'.*llama, qwen2"):
        family_of(model)
    with pytest.raises(CraneError, match="Linear"):
        family_of(nn.Linear(2, 2))


def test_the_backbone_alone_is_refused():
    with pytest.raises(CraneError, match=r"LlamaModel has no module 'model\."):
        parts_of(tiny_model().model)


def test_a_norm_without_a_rule_is_refused():
    model = tiny_model()
    model.model.layers[1].input_layernorm = nn.LayerNorm(16)
    with pytest.raises(CraneError, match=r"model\.layers\.1\.input_layernorm: LayerNorm"):
        parts_of(model)


def test_a_norm_where_the_family_has_none_is_refused():
    model = tiny_model()
    model.model.layers[0].self_attn.q_norm = nn.RMSNorm(4)
    with pytest.raises(CraneError, match=r"self_attn\.q_norm: RMSNorm"):
        parts_of(model)


def test_an_activation_without_a_rule_is_refused():
    with pytest.raises(CraneError, match="layer 0: activation ReLU"):
        parts_of(tiny_model(hidden_act="relu"))


@pytest.mark.parametrize("name", ["silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_python"])
def test_quotient_times_input_is_the_activation(name):
    activation = ACT2FN[name]
    g = torch.linspace(-30, 30, 2001, dtype=torch.float64)
    quotient = QUOTIENTS[type(activation).__name__](g)
    # an activation written with 1 + erf or 1 + tanh cancels far below 0; its quotient does not
    torch.testing.assert_close(quotient * g, activation(g), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", QUOTIENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_quotient_is_finite_everywhere_and_one_half_at_zero(name, dtype):
    tiny = torch.finfo(dtype).smallest_normal
    near_zero = torch.tensor([0.0, -0.0, 1e-10, -1e-10, tiny, -tiny, tiny / 4, -tiny / 4], dtype=dtype)
    torch.testing.assert_close(QUOTIENTS[name](near_zero), torch.full_like(near_zero, 0.5), rtol=0, atol=1e-10)
    far = torch.tensor([-60000.0, -100.0, -9.0, 9.0, 100.0, 60000.0], dtype=dtype)
    quotient = QUOTIENTS[name](far)
    assert quotient.isfinite().all()
    assert ((quotient >= 0) & (quotient <= 1)).all()
    assert quotient.dtype == dtype
