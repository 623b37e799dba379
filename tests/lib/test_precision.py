"""A float64 model computes in float64, where transformers alone would go through float32."""

import numpy as np
import pytest
import torch

from crane_lib.models import load_model
from crane_lib.nll import document_nll
from crane_lib.precision import InDouble, compute_in_double, widened
from crane_study.measure.generation import answer_nll
from crane_study.measure.likelihoods import Requests
from crane_study.profile import Training
from crane_study.training import fit
from tests.small import small_model, write_model

TOKENS = torch.tensor([[3, 17, 5, 29, 8, 11, 40, 2]])


def double_model():
    model = small_model(50).double()
    compute_in_double(model)
    return model


def rotated(x, angle):
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * angle.cos() + turned * angle.sin()


def slow_logits(model, tokens):
    """The small Llama written out for one sequence, in float64.  (T, V)"""
    w, config = dict(model.named_parameters()), model.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    frequency = 10_000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(len(tokens), dtype=torch.float64), frequency).repeat(1, 2)

    def norm(x, name):
        return w[name] * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        y = norm(x, f"{name}.input_layernorm.weight")
        q, k, v = ((y @ w[f"{name}.self_attn.{part}_proj.weight"].T).view(-1, heads, size) for part in "qkv")
        out = []
        for head in range(heads):
            scores = rotated(q[:, head], angle) @ rotated(k[:, head], angle).T / size**0.5
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            out.append(scores.softmax(-1) @ v[:, head])
        x = x + torch.cat(out, -1) @ w[f"{name}.self_attn.o_proj.weight"].T
        y = norm(x, f"{name}.post_attention_layernorm.weight")
        gate, up = (y @ w[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate * gate.sigmoid() * up) @ w[f"{name}.mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["model.embed_tokens.weight"].T


def test_a_float64_model_agrees_with_the_equations_to_the_last_digits():
    model, plain = double_model(), small_model(50).double()
    expected = slow_logits(model, TOKENS[0])
    size = expected.abs().max()
    assert (model(input_ids=TOKENS).logits[0] - expected).abs().max() / size < 1e-13
    # Another model of the same class stays as transformers made it.
    assert (plain(input_ids=TOKENS).logits[0] - expected).abs().max() / size > 1e-9


def test_losses_of_a_float64_model_are_in_float64():
    model = double_model()
    expected = -slow_logits(model, TOKENS[0])[:-1].log_softmax(-1)[torch.arange(7), TOKENS[0, 1:]].detach().numpy()
    tokens = TOKENS[0].tolist()
    nll, _count = document_nll(model, [tokens], token_budget=64)
    assert nll[0] == pytest.approx(expected.sum(), rel=1e-13)
    scored = Requests([(tokens[:3], tokens[3:])], batch_size=1, max_length=20).log_likelihoods(model)
    assert scored[0] == pytest.approx(-expected[2:].sum(), rel=1e-13)
    assert answer_nll(model, [tokens[:3]], [tokens[3:]])[0] == pytest.approx(expected[2:].sum(), rel=1e-13)
    recipe = Training(learning_rate=0.01, batch_size=1)
    history = fit(model, TOKENS, TOKENS, training=recipe, random_seed=0, description="Test")
    assert history["loss"].iloc[0] == pytest.approx(expected.mean(), rel=1e-13)
    assert model.dtype == torch.float64


def test_rounding_does_not_grow_in_training():
    """Weights apart in the last digit, as two processors would have them, stay together."""
    tokens = torch.randint(50, (24, 16), generator=torch.Generator().manual_seed(0))
    recipe = Training(learning_rate=0.01, batch_size=4)
    ends = []
    for nudge in (0.0, 1e-15):
        model = double_model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + nudge)
        fit(model, tokens, tokens, training=recipe, random_seed=0, description="Test")
        ends.append(torch.cat([parameter.detach().ravel() for parameter in model.parameters()]).numpy())
    assert 0 < np.abs(ends[0] - ends[1]).max() < 1e-11


def test_loading_in_float64_computes_in_float64(tmp_path):
    path = write_model(tmp_path / "model")
    model, _tokenizer = load_model(path, device="cpu", dtype="float64")
    expected = slow_logits(model, TOKENS[0])
    assert (model(input_ids=TOKENS).logits[0] - expected).abs().max() / expected.abs().max() < 1e-13
    assert "forward" not in vars(load_model(path, device="cpu")[0].base_model)


def test_the_block_ends():
    with InDouble():
        assert torch.zeros(2).to(torch.float32).dtype == torch.float64
        assert torch.zeros(2, dtype=torch.bfloat16).float().dtype == torch.float64
    assert torch.zeros(2, dtype=torch.float64).float().dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "got"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_sums_are_taken_in_at_least_float32(given, got):
    assert widened(torch.ones(2, dtype=given)).dtype == got
