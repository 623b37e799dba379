"""Statistics of a corpus: batches, shards, and several ways to the same bits."""

import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_lib.relevance import SITES, Statistics, corpus, document_relevance, fingerprint_weights, stream_statistics
from crane_lib.relevance.corpus import _merged, batch_size, is_finished, plan_shards, read_shards
from crane_lib.relevance.moments import TENSORS
from crane_lib.relevance.statistics import corpus_fingerprint
from tests.lib.relevance.test_statistics import PROVENANCE, some_statistics
from tests.lib.relevance.tiny import documents, tiny_model

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
        "objective": "gold_logit",
        "dtype": "float32",
        "max_length": "8",
    }
    assert seen.labels == {"language": "vi"}
    assert steps == [(0, 2), (1, 2), (2, 2)]
    named = stream_statistics(model, CORPUS[:1], model_fingerprint="base")
    assert named.provenance["model"] == "base"


def same_bits(one, other) -> bool:
    return (one.documents, one.tokens, one.corpus) == (other.documents, other.tokens, other.corpus) and all(
        torch.equal(getattr(one.moments[site], name), getattr(other.moments[site], name))
        for site in one.moments
        for name in TENSORS
    )


def test_documents_may_be_arrays():
    model = tiny_model()
    expected = stream_statistics(model, CORPUS, token_budget=20)
    for arrays in (
        [np.array(document, dtype=np.int32) for document in CORPUS],
        [np.array(document, dtype=np.uint16) for document in CORPUS],
        [torch.tensor(document) for document in CORPUS],
    ):
        assert same_bits(stream_statistics(model, arrays, token_budget=20), expected)


def test_the_corpus_is_that_of_the_documents_as_cut():
    model = tiny_model()
    seen = stream_statistics(model, CORPUS, token_budget=20, max_length=6)
    assert seen.corpus == corpus_fingerprint(np.array(document[:6]) for document in CORPUS)
    assert seen.corpus != stream_statistics(model, CORPUS, token_budget=20).corpus


def test_ungated_models_have_no_gate():
    seen = stream_statistics(tiny_model("gpt2"), CORPUS[:3], max_length=8)
    assert list(seen.moments) == ["neuron", "abs_neuron", "up", "down"]
    assert seen.moments["down"].shape == (2, 16)


def test_models_without_a_limit_take_long_documents():
    seen = stream_statistics(tiny_model("bloom"), [[1, 2] * 40], max_length=70)
    assert seen.tokens == 70


def test_checkpointing_changes_nothing_and_reaches_the_pass(monkeypatch):
    model, asked = tiny_model(), []

    def watched(*arguments, **settings):
        asked.append(settings["checkpointing"])
        return document_relevance(*arguments, **settings)

    monkeypatch.setattr(corpus, "document_relevance", watched)
    expected = stream_statistics(model, CORPUS, token_budget=20)
    assert same_bits(stream_statistics(model, CORPUS, token_budget=20, checkpointing=True), expected)
    assert set(asked[: len(asked) // 2]) == {False}
    assert set(asked[len(asked) // 2 :]) == {True}


# --- shards as files ---


@pytest.fixture
def computed(monkeypatch):
    """Numbers of documents of the batches that were computed."""
    sizes = []

    def watched(model, input_ids, *arguments, **settings):
        sizes.append(len(input_ids))
        return document_relevance(model, input_ids, *arguments, **settings)

    monkeypatch.setattr(corpus, "document_relevance", watched)
    return sizes


def test_shards_as_files_give_the_same_bits_and_are_used_again(tmp_path, computed):
    model = tiny_model()
    expected = stream_statistics(model, CORPUS, token_budget=20)
    seen = stream_statistics(model, CORPUS, token_budget=20, folder=tmp_path, labels={"l": "vi"})
    assert same_bits(seen, expected)
    assert seen.labels == {"l": "vi"}
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"shard-{number:05}-of-00004.safetensors" for number in range(1, 5)]
    computed.clear()
    steps = []
    again = stream_statistics(
        model, CORPUS, token_budget=20, folder=tmp_path, progress=lambda done, total: steps.append((done, total))
    )
    assert same_bits(again, expected)
    assert computed == []
    assert steps == [(7, 7)]


def test_only_what_is_missing_damaged_or_of_something_else_is_made_again(tmp_path, computed):
    model = tiny_model()
    expected = stream_statistics(model, CORPUS, token_budget=20, folder=tmp_path)
    first, second, third, fourth = sorted(tmp_path.iterdir())
    kept = third.read_bytes(), third.stat().st_mtime_ns
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    fourth.write_bytes(third.read_bytes())  # the statistics of other documents
    computed.clear()
    assert same_bits(stream_statistics(model, CORPUS, token_budget=20, folder=tmp_path), expected)
    assert sum(computed) == 7 - Statistics.load(third).documents
    assert kept == (third.read_bytes(), third.stat().st_mtime_ns)


@pytest.mark.parametrize(
    "change", [{"rule": "gradient"}, {"objective": "log_probability"}, {"model_fingerprint": "other"}]
)
def test_shards_made_in_another_way_are_not_used(tmp_path, computed, change):
    model, longer = tiny_model(), [document for document in CORPUS if len(document) > 1]
    stream_statistics(model, longer, token_budget=20, folder=tmp_path)
    computed.clear()
    seen = stream_statistics(model, longer, token_budget=20, folder=tmp_path, **change)
    assert sum(computed) == 6
    assert same_bits(seen, stream_statistics(model, longer, token_budget=20, **change))


def test_a_pass_that_fails_leaves_its_finished_shards(tmp_path, monkeypatch, computed):
    model = tiny_model()
    working = corpus.document_relevance
    monkeypatch.setattr(corpus, "document_relevance", failing_above(0, MemoryError(), after=2))
    with pytest.raises(CraneError, match="do not fit in memory"):
        stream_statistics(model, CORPUS, token_budget=17, folder=tmp_path)
    monkeypatch.setattr(corpus, "document_relevance", working)
    assert len(list(tmp_path.iterdir())) == 2
    computed.clear()
    steps = []
    stream_statistics(
        model, CORPUS, token_budget=17, folder=tmp_path, progress=lambda done, total: steps.append((done, total))
    )
    assert steps[0] == (2, 7)
    assert sum(computed) == 5


def test_fingerprints_tell_weights_and_settings_apart():
    model = tiny_model()
    first = fingerprint_weights(model)
    assert first == fingerprint_weights(tiny_model())
    assert first != fingerprint_weights(tiny_model(rms_norm_eps=1e-5))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-9
    assert first != fingerprint_weights(model)


def failing_above(limit, error, *, after=0):
    """A pass that fails when its batch has more than `limit` values, from call number `after` on."""
    calls = []

    def compute(model, input_ids, *args, **settings):
        calls.append(input_ids.shape)
        if input_ids.numel() > limit and len(calls) > after:
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
    monkeypatch.setattr(corpus, "document_relevance", failing_above(30, error))
    with pytest.warns(UserWarning, match="memory ran out") as warned:
        seen = stream_statistics(model, CORPUS, token_budget=1000)
    assert [str(warning.message).split()[5] for warning in warned] == ["51", "17"]
    assert seen.documents == 7
    torch.testing.assert_close(seen.moments["neuron"].m2, expected.moments["neuron"].m2, rtol=1e-5, atol=1e-7)


def test_a_document_too_big_for_memory_is_named(monkeypatch):
    monkeypatch.setattr(corpus, "document_relevance", failing_above(16, MemoryError()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CraneError, match="document 1: its 17 tokens do not fit in memory"):
            stream_statistics(tiny_model(), CORPUS)


def test_other_errors_pass_through(monkeypatch):
    monkeypatch.setattr(corpus, "document_relevance", failing_above(0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        stream_statistics(tiny_model(), CORPUS)


@pytest.mark.parametrize(
    ("documents", "objective", "message"),
    [
        ([[1, 2], []], "gold_logit", "document 1: has 0 tokens"),
        (
            [[1], [1, 2]],
            "log_probability",
            "document 0: has 1 tokens, but .* needs at least 2",
        ),
        ([[1], [2], [1, 53]], "gold_logit", "document 2: token ids from 1 to 53, but the model knows 0 to 52"),
        ([[1] * 65], "gold_logit", "document 0: has 65 tokens, but the model takes 64"),
        ([], "gold_logit", "no documents"),
        ([[1], np.array([1.0, 2.0])], "gold_logit", r"document 1: is an array \(2,\) of float64; expected token ids"),
        ([np.array([[1, 2, 3]])], "gold_logit", r"document 0: is an array \(1, 3\) of int64; expected token ids"),
    ],
)
def test_bad_documents_are_named(documents, objective, message):
    with pytest.raises(CraneError, match=message):
        stream_statistics(tiny_model(), documents, objective=objective)


def test_a_document_that_is_not_finite_is_named():
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = torch.inf
    with pytest.raises(CraneError, match="document 2: its relevance is not finite"):
        stream_statistics(model, [[1, 2, 3], [4, 5], [6, 50, 7], [8, 9]])


# --- the plan of shards ---

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=150).map(np.array)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths, st.integers(1, 200), st.integers(1, 9), st.integers(1, 5))
def test_every_document_is_in_one_shard_longest_first(lengths, token_budget, most_documents, shard_batches):
    plan = plan_shards(lengths, token_budget=token_budget, most_documents=most_documents, shard_batches=shard_batches)
    order = np.concatenate([shard.documents for shard in plan])
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert order.tolist() == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    assert [(shard.number, shard.total) for shard in plan] == [(i + 1, len(plan)) for i in range(len(plan))]
    for shard in plan:
        assert 1 <= batches(lengths[shard.documents], token_budget, most_documents) <= shard_batches


def batches(lengths, token_budget, most_documents) -> int:
    count = 0
    while len(lengths):
        lengths = lengths[batch_size(lengths[0], token_budget=token_budget, most_documents=most_documents) :]
        count += 1
    return count


@pytest.mark.parametrize(("documents", "shards"), [(1, 1), (7, 7), (63, 63), (64, 32), (1000, 33), (5000, 157)])
def test_small_corpora_are_cut_finely_enough_for_many_processes_and_large_ones_not_too_finely(documents, shards):
    plan = plan_shards(np.full(documents, 10), token_budget=10, most_documents=99)
    assert len(plan) == shards
    sizes = [len(shard.documents) for shard in plan]
    assert max(sizes) <= corpus.SHARD_BATCHES
    assert len(set(sizes[:-1])) <= 1


def test_a_batch_has_at_least_one_document_and_not_too_many():
    assert batch_size(100, token_budget=10, most_documents=5) == 1
    assert batch_size(10, token_budget=40, most_documents=5) == 4
    assert batch_size(1, token_budget=40, most_documents=5) == 5


def test_a_finished_shard_is_a_whole_file_of_the_same_documents_made_in_the_same_way(tmp_path):
    statistics = some_statistics(torch.randn(3, 2, 3))
    path = tmp_path / "shard"
    wanted = {"provenance": PROVENANCE, "corpus": statistics.corpus}
    assert not is_finished(path, **wanted)
    statistics.save(path)
    assert is_finished(path, **wanted)
    assert not is_finished(path, **wanted | {"corpus": "0" * 32})
    assert not is_finished(path, **wanted | {"provenance": PROVENANCE | {"objective": "log_probability"}})
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_finished(path, **wanted)


def test_shards_merge_in_their_order(tmp_path):
    plan = plan_shards(np.full(3, 1), token_budget=1, most_documents=1)
    pieces = [some_statistics(torch.randn(2, 2, 3)) for _ in plan]
    for shard, piece in reversed(list(zip(plan, pieces, strict=True))):
        piece.save(tmp_path / shard.name)
    whole = _merged(read_shards(tmp_path, plan))
    expected = _merged(iter(pieces))
    assert whole.documents == 6
    assert torch.equal(whole.moments["up"].m4, expected.moments["up"].m4)


def test_a_file_that_is_shown_late_is_waited_for_and_one_that_never_comes_is_named(tmp_path, monkeypatch):
    (shard,) = plan_shards(np.full(1, 1), token_budget=1, most_documents=1)
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            some_statistics(torch.randn(1, 2, 3)).save(tmp_path / shard.name)

    monkeypatch.setattr(time, "sleep", sleep)
    assert next(read_shards(tmp_path, [shard])).documents == 1
    assert len(naps) == 2
    monkeypatch.setattr(corpus, "VISIBLE_SECONDS", -1.0)
    with pytest.raises(CraneError, match="must be on a disk that all machines share"):
        next(read_shards(tmp_path / "elsewhere", [shard]))
