"""NLL of documents in batches, compared with one token after the other."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crane_lib import nll as perplexity
from crane_lib.batches import token_batches
from crane_lib.errors import CraneError
from crane_lib.nll import document_nll, output_logits
from tests.lib.relevance.tiny import FAMILY_KINDS, distance, documents, tiny_model

CORPUS = [row.tolist() for row in documents([5, 17, 2, 9, 9, 30, 12])]


def slow_nll(model, document):
    """One document by itself, one token after the other."""
    total = 0.0
    for place in range(1, len(document)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([document[:place]])).logits[0, -1].double()
        total -= float(logits[document[place]] - torch.logsumexp(logits, 0))
    return total


@pytest.mark.parametrize("token_budget", [40, 10_000])  # 10,000: pads beyond the sliding windows
@pytest.mark.parametrize("kind", FAMILY_KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_documents_in_batches_are_documents_one_by_one(kind, dtype, token_budget):
    model = tiny_model(kind, dtype=dtype)
    nll, tokens = document_nll(model, CORPUS, token_budget=token_budget)
    np.testing.assert_allclose(nll, [slow_nll(model, document) for document in CORPUS], rtol=1e-5)
    assert tokens.tolist() == [len(document) - 1 for document in CORPUS]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("token_budget", [1, 30, 10_000])
def test_pads_batches_and_parts_of_logits_do_not_matter(token_budget, attention, monkeypatch):
    model = tiny_model(dtype=torch.float32, attention=attention)
    expected = np.array([document_nll(model, [document], token_budget=1)[0][0] for document in CORPUS])
    np.testing.assert_allclose(document_nll(model, CORPUS, token_budget=token_budget)[0], expected, rtol=1e-5)
    monkeypatch.setattr(perplexity, "_LOGIT_ROWS", 3)
    original = perplexity.pad_batch

    def other_pads(batch):
        ids, mask = original(batch)
        return ids.masked_fill(~mask, 7), mask

    monkeypatch.setattr(perplexity, "pad_batch", other_pads)
    turned = document_nll(model, CORPUS[::-1], token_budget=token_budget)[0]
    np.testing.assert_allclose(turned[::-1], expected, rtol=1e-5)
    low = document_nll(model.to(torch.bfloat16), CORPUS, token_budget=token_budget)[0]
    np.testing.assert_allclose(low, expected, rtol=0.1)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        *((bad, "every document needs at least two tokens; is the corpus empty") for bad in ([], [[1, 2], []])),
        ([[1, 2], [3]], "every document needs at least two tokens"),
        ([[1, 2, 3], [4] * 65], "document 1: has 65 tokens, but the model takes 64; lower max_length"),
        ([[1, 2, 3], [4, 53]], "document 1: has token 53, but the model knows 0 to 52"),
        ([[1, 2, 3], [1, 52, 3], [4, 5]], "the NLL of document 1 is not finite"),
    ],
)
def test_documents_without_a_token_to_predict_or_a_finite_nll(bad, words):
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[52] = torch.nan
    with pytest.raises(CraneError, match=words):
        document_nll(model, bad, token_budget=3)


@given(lengths=st.lists(st.integers(1, 50), max_size=20), token_budget=st.integers(1, 120))
def test_batches_hold_every_document_once_and_keep_the_budget(lengths, token_budget):
    batches = token_batches(lengths, token_budget=token_budget, section=lambda _length: 0)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * width <= token_budget
    widest = [max(lengths[index] for index in batch) for batch in batches]
    assert widest == sorted(widest)
    # No batch could have taken the first document of the next one as well.
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * lengths[following[0]] > token_budget


# --- logits ---


@torch.no_grad()
def states(model):
    """Final hidden states and the model's own logits on two documents."""
    ids = torch.stack(documents([12, 12]))
    return model.base_model(input_ids=ids).last_hidden_state, model(input_ids=ids).logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", FAMILY_KINDS)
@torch.no_grad()
def test_logits_are_the_models_own_and_no_narrower_than_float32(kind, dtype):
    model = tiny_model(kind, dtype=dtype)
    hidden, logits = states(model)
    tolerance = {torch.bfloat16: 0.02, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    found = output_logits(model, hidden)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert distance(found.double(), logits.double()) < tolerance
    assert distance(output_logits(model, hidden[0, 3:5]).double(), logits[0, 3:5].double()) < tolerance
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        raw = model.get_output_embeddings()(hidden)
        assert raw.abs().max() > 1.5 * cap  # or the test would show nothing
        assert logits.abs().max() <= cap
