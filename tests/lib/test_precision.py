"""A float64 model computes in float64, where transformers alone would go through float32."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from crane_lib.nll import document_nll
from crane_lib.precision import InDouble, compute_in_double, widened
from crane_study.loading.models import load_model
from crane_study.measure.generation import answer_nll
from crane_study.measure.likelihoods import Requests
from crane_study.profile import Training
from crane_study.training import fit
from tests.lib.relevance import slow
from tests.lib.relevance.tiny import VARIANTS, distance, documents, tiny_model, variant
from tests.small import small_model, write_model

TOKENS = torch.tensor([[3, 17, 5, 29, 8, 11, 40, 2]])


def slow_logits(model, tokens):
    """Logits in float64 throughout, rotary frequencies included.  (T, V)"""
    return slow.slow_logits(model, tokens, rotary=torch.float64)


def double_model():
    model = small_model(50).double()
    compute_in_double(model)
    return model


def test_a_float64_model_agrees_with_the_equations_to_the_last_digits():
    model, plain = double_model(), small_model(50).double()
    expected = slow_logits(model, TOKENS[0])
    size = expected.abs().max()
    assert (model(input_ids=TOKENS).logits[0] - expected).abs().max() / size < 1e-13
    # Another model of the same class stays as transformers made it.
    assert (plain(input_ids=TOKENS).logits[0] - expected).abs().max() / size > 1e-9


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_agrees_with_the_equations_in_float64(name, tmp_path):
    """Made in float32 and widened, and loaded from a file."""
    widened_one = variant(name)
    widened_one.save_pretrained(tmp_path)
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, **plain).eval()
    ids = documents([24], random_seed=4)[0]
    expected = slow_logits(widened_one, ids).detach()
    for model in (widened_one, loaded):
        compute_in_double(model)
        with torch.no_grad():
            assert distance(model(input_ids=ids[None]).logits[0], expected) < 2e-14


@pytest.mark.parametrize("rope", ["default", "linear", "longrope"])
def test_frequencies_of_rope_types_are_exact(rope):
    settings = {"rope_type": rope, "rope_theta": 100.0, "factor": 3.0, "original_max_position_embeddings": 16}
    settings |= {"short_factor": [1.1, 1.5], "long_factor": [2.1, 9.0]}
    model = tiny_model("llama", rope_parameters=settings)
    compute_in_double(model)
    divided = {"default": [1.0, 1.0], "linear": [3.0, 3.0], "longrope": [1.1, 1.5]}[rope]
    expected = [1 / (factor * 100.0 ** (2 * i / 4)) for i, factor in enumerate(divided)]
    assert model.model.rotary_emb.inv_freq.tolist() == pytest.approx(expected, rel=1e-15)
    model(input_ids=TOKENS.repeat(1, 3))  # longer than the switch
    if rope == "longrope":
        expected = [1 / (factor * 100.0 ** (2 * i / 4)) for i, factor in enumerate([2.1, 9.0])]
    assert model.model.rotary_emb.inv_freq.tolist() == pytest.approx(expected, rel=1e-15)


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
    history = fit(model, TOKENS, TOKENS, training=recipe, precision="float64", random_seed=0, description="Test")
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
        fit(model, tokens, tokens, training=recipe, precision="float64", random_seed=0, description="Test")
        ends.append(torch.cat([parameter.detach().ravel() for parameter in model.parameters()]).numpy())
    assert 0 < np.abs(ends[0] - ends[1]).max() < 1e-11


def test_loading_in_float64_computes_in_float64(tmp_path):
    path = write_model(tmp_path / "model")
    model, _tokenizer = load_model(path, device="cpu", dtype="float64")
    expected = slow_logits(model, TOKENS[0])
    assert (model(input_ids=TOKENS).logits[0] - expected).abs().max() / expected.abs().max() < 1e-13
    assert "forward" not in vars(load_model(path, device="cpu")[0].base_model)


def test_the_block_ends_and_sums_are_taken_in_at_least_float32():
    with InDouble():
        assert torch.zeros(2).to(torch.float32).dtype == torch.float64
        assert torch.zeros(2, dtype=torch.bfloat16).float().dtype == torch.float64
    assert torch.zeros(2, dtype=torch.float64).float().dtype == torch.float32
    got = [widened(torch.ones(2, dtype=given)).dtype for given in (torch.bfloat16, torch.float32, torch.float64)]
    assert got == [torch.float32, torch.float32, torch.float64]
