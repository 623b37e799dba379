"""Logits from hidden states are those of the model's own forward pass, in every family."""

import pytest
import torch

from crane_lib.nll import output_logits
from tests.lib.relevance.tiny import FAMILY_KINDS, GEMMA, distance, documents, tiny_model

CAPPED = ("gemma2", "gemma3_text")


def states(model):
    """Last hidden states and the model's own logits on two documents."""
    ids = torch.stack(documents([12, 12]))
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        hidden = model.base_model(input_ids=ids).last_hidden_state
    return hidden, logits


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_logits_are_the_models_own(kind):
    model = tiny_model(kind)
    hidden, logits = states(model)
    with torch.no_grad():
        assert distance(output_logits(model, hidden), logits) < 1e-12
        assert distance(output_logits(model, hidden[0, 3:5]), logits[0, 3:5]) < 1e-12


@pytest.mark.parametrize("kind", CAPPED)
def test_the_cap_is_felt(kind):
    model = tiny_model(kind)
    hidden, logits = states(model)
    with torch.no_grad():
        raw = model.get_output_embeddings()(hidden)
    cap = GEMMA["final_logit_softcapping"]
    assert raw.abs().max() > 1.5 * cap  # or the test would show nothing
    assert logits.abs().max() <= cap
    model.config.final_logit_softcapping = None
    with torch.no_grad():
        assert torch.equal(output_logits(model, hidden), raw)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_logits_are_no_narrower_than_float32(kind, dtype):
    model = tiny_model(kind, dtype=dtype)
    hidden, logits = states(model)
    assert hidden.dtype == dtype
    with torch.no_grad():
        found = output_logits(model, hidden)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert distance(found.double(), logits.double()) < (0.02 if dtype == torch.bfloat16 else 1e-5)
