import warnings

import pytest
import torch

from crane_lib.errors import CraneError
from crane_lib.relevance import SITES, document_relevance, fingerprint_weights, stream, stream_statistics
from tests.relevance.tiny import documents, tiny_model

CORPUS = [row.tolist() for row in documents([5, 17, 3, 9, 9, 1, 12])]


def test_statistics_are_the_moments_over_single_documents():
    model = tiny_model()
    seen = stream_statistics(model, CORPUS, token_budget=40, max_length=10)
    single = [document_relevance(model, torch.tensor([document[:10]])) for document in CORPUS]
    assert seen.documents == 7
    assert seen.tokens == 5 + 10 + 3 + 9 + 9 + 1 + 10
    assert torch.equal(seen.active, sum(found.active[0] for found in single))
    for site in SITES:
        values = torch.cat([getattr(found, site) for found in single])
        torch.testing.assert_close(seen.moments[site].mean, values.mean(0), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(seen.moments[site].variance(), values.var(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("token_budget", [1, 20, 10_000])
def test_the_token_budget_does_not_matter(token_budget):
    model = tiny_model()
    expected = stream_statistics(model, CORPUS, token_budget=50)
    seen = stream_statistics(model, CORPUS[::-1], token_budget=token_budget)
    assert torch.equal(seen.active, expected.active)
    for site in SITES:
        torch.testing.assert_close(seen.moments[site].mean, expected.moments[site].mean, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(seen.moments[site].m4, expected.moments[site].m4, rtol=1e-4, atol=1e-7)


def test_provenance_labels_and_progress():
    model = tiny_model(dtype=torch.float32)
    steps = []
    seen = stream_statistics(
        model,
        CORPUS[:2],
        rule="gradient",
        token_budget=1,
        max_length=8,
        labels={"language": "vi"},
        progress=lambda done, total: steps.append((done, total)),
    )
    assert seen.provenance == {
        "model": fingerprint_weights(model),
        "rule": "gradient",
        "seed": "gold_logit",
        "dtype": "float32",
        "max_length": "8",
    }
    assert seen.labels == {"language": "vi"}
    assert steps == [(1, 2), (2, 2)]
    named = stream_statistics(model, CORPUS[:1], model_fingerprint="base")
    assert named.provenance["model"] == "base"


def test_fingerprints_tell_weights_and_settings_apart():
    model = tiny_model()
    first = fingerprint_weights(model)
    assert first == fingerprint_weights(tiny_model())
    assert first != fingerprint_weights(tiny_model(rms_norm_eps=1e-5))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-9
    assert first != fingerprint_weights(model)


def failing_above(limit, error):
    """A pass that fails when its batch has more than `limit` values."""

    def compute(model, input_ids, *args, **settings):
        if input_ids.numel() > limit:
            raise error
        return document_relevance(model, input_ids, *args, **settings)

    return compute


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_batches_shrink_when_memory_runs_out(error, monkeypatch):
    model = tiny_model()
    expected = stream_statistics(model, CORPUS, token_budget=30)
    monkeypatch.setattr(stream, "document_relevance", failing_above(30, error))
    with pytest.warns(UserWarning, match="memory ran out") as warned:
        seen = stream_statistics(model, CORPUS, token_budget=1000)
    assert [str(warning.message).split()[6] for warning in warned] == ["51", "17"]
    assert seen.documents == 7
    torch.testing.assert_close(seen.moments["neuron"].m2, expected.moments["neuron"].m2, rtol=1e-5, atol=1e-7)


def test_a_document_too_big_for_memory_is_named(monkeypatch):
    monkeypatch.setattr(stream, "document_relevance", failing_above(16, MemoryError()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CraneError, match="document 1: its 17 tokens do not fit in memory"):
            stream_statistics(tiny_model(), CORPUS)


def test_other_errors_pass_through(monkeypatch):
    monkeypatch.setattr(stream, "document_relevance", failing_above(0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        stream_statistics(tiny_model(), CORPUS)


def test_bad_documents_are_named():
    model = tiny_model()
    with pytest.raises(CraneError, match="document 1: has 0 tokens"):
        stream_statistics(model, [[1, 2], []])
    with pytest.raises(CraneError, match="document 0: has 1 tokens, but the seed 'log_probability' needs at least 2"):
        stream_statistics(model, [[1], [1, 2]], seed="log_probability")
    with pytest.raises(CraneError, match="document 2: token ids from 1 to 53, but the model knows 0 to 52"):
        stream_statistics(model, [[1], [2], [1, 53]])
    with pytest.raises(CraneError, match="document 0: has 65 tokens, but the model takes 64"):
        stream_statistics(model, [[1] * 65])
    with pytest.raises(CraneError, match="no documents"):
        stream_statistics(model, [])


def test_a_document_that_is_not_finite_is_named():
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = torch.inf
    with pytest.raises(CraneError, match="document 2: its relevance is not finite"):
        stream_statistics(model, [[1, 2, 3], [4, 5], [6, 50, 7], [8, 9]])
