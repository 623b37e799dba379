"""Statistics of a corpus: batches, shards, and several ways to the same bits."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_lib.relevance import (
    SITES,
    Moments,
    Statistics,
    corpus,
    document_relevance,
    fingerprint_weights,
    parts_of,
    stream_statistics,
)
from crane_lib.relevance.corpus import batch_size, plan_shards, read_files
from crane_lib.relevance.moments import TENSORS
from crane_lib.relevance.statistics import corpus_fingerprint
from tests.lib.relevance.test_statistics import some_statistics
from tests.lib.relevance.tiny import distance, documents, slow_pass, tiny_model

CORPUS = [row.tolist() for row in documents([5, 17, 3, 9, 9, 1, 12])]
TOKENS = 56


def same_bits(one, other) -> bool:
    return (one.documents, one.tokens, one.corpus) == (other.documents, other.tokens, other.corpus) and all(
        torch.equal(getattr(one.moments[site], name), getattr(other.moments[site], name))
        for site in one.moments
        for name in TENSORS
    )


@pytest.fixture
def passes(monkeypatch):
    """Number of documents of each batch that was computed, and whether by checkpointing."""
    seen = []

    def watched(model, input_ids, *arguments, **settings):
        seen.append((len(input_ids), settings["checkpointing"]))
        return document_relevance(model, input_ids, *arguments, **settings)

    monkeypatch.setattr(corpus, "document_relevance", watched)
    return seen


def failing_above(limit, error, *, after=0):
    """A pass that fails when its batch has more than `limit` values, from call number `after` on."""
    calls = []

    def compute(model, input_ids, *args, **settings):
        calls.append(input_ids.shape)
        if input_ids.numel() > limit and len(calls) > after:
            raise error
        return document_relevance(model, input_ids, *args, **settings)

    return compute


@pytest.mark.parametrize("token_budget", [1, 20, 40, 10_000])
def test_statistics_are_the_moments_over_single_documents(token_budget):
    model = tiny_model()
    seen = stream_statistics(model, CORPUS[::-1], token_budget=token_budget, max_length=10)
    single = [document_relevance(model, torch.tensor([document[:10]])) for document in CORPUS]
    assert (seen.documents, seen.tokens) == (7, 5 + 10 + 3 + 9 + 9 + 1 + 10)
    assert torch.equal(seen.active, sum(found.active[0] for found in single))
    torch.testing.assert_close(seen.magnitude, sum(found.magnitude[0].double() for found in single))
    for site in SITES:
        values = torch.cat([getattr(found, site) for found in single])
        expected = Moments.of(values)
        torch.testing.assert_close(seen.moments[site].mean, values.mean(0), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(seen.moments[site].variance(), values.var(0), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(seen.moments[site].m4, expected.m4, rtol=1e-4, atol=1e-7)
    assert seen.corpus == corpus_fingerprint(np.array(document[:10]) for document in CORPUS)
    assert seen.corpus != stream_statistics(model, CORPUS).corpus


def test_arrays_and_checkpointing_give_the_same_bits(passes):
    model = tiny_model()
    expected = stream_statistics(model, CORPUS, token_budget=20)
    assert not any(checkpointing for _size, checkpointing in passes)
    for arrays in (
        [np.array(document, dtype=np.int32) for document in CORPUS],
        [np.array(document, dtype=np.uint16) for document in CORPUS],
        [torch.tensor(document) for document in CORPUS],
    ):
        passes.clear()
        assert same_bits(stream_statistics(model, arrays, token_budget=20, checkpointing=True), expected)
        assert all(checkpointing for _size, checkpointing in passes)


def downs(model):
    return [module for name, module in model.named_modules() if name.endswith(("mlp.down_proj", "mlp.c_proj"))]


@pytest.mark.parametrize(("kind", "checkpointing"), [("llama", False), ("gemma3_text", True), ("gpt2", False)])
def test_the_first_tokens_of_every_document_are_read_and_not_counted(kind, checkpointing):
    model, skip = tiny_model(kind), 2
    longer = [document for document in CORPUS if len(document) > skip]
    seen = stream_statistics(model, longer, token_budget=20, skip_first_tokens=skip, checkpointing=checkpointing)
    slow = [slow_pass(model, torch.tensor(document), skip=skip) for document in longer]
    assert seen.tokens == sum(len(document) - skip for document in longer)
    assert torch.equal(seen.active, sum(found["active"] for found in slow))
    assert distance(seen.magnitude, sum(found["magnitude"] for found in slow)) < 1e-5
    columns = [down.weight if kind == "gpt2" else down.weight.T for down in downs(model)]  # rows of a Conv1D
    norms = [[float(sum(value**2 for value in column)) ** 0.5 for column in layer.tolist()] for layer in columns]
    torch.testing.assert_close(seen.norms, torch.tensor(norms, dtype=torch.float64))
    for layer, (found, part) in enumerate(zip(seen.head_norms, parts_of(model).layers, strict=True)):
        weight, size = part.output.weight(), part.output.weight().shape[1] // len(found)
        for head, value in enumerate(found):
            squares = [float(weight[:, head * size + column].detach().norm()) ** 2 for column in range(size)]
            assert float(value) == pytest.approx((sum(squares) / size) ** 0.5, rel=1e-9), layer
    for site, moments in seen.moments.items():
        expected = Moments.of(torch.stack([found[site] for found in slow]))
        for name in ("mean", "mean_absolute", "m2"):  # the slow pass turns by angles that are exact
            assert distance(getattr(moments, name), getattr(expected, name)) < 1e-5, (site, name)
    everything = stream_statistics(model, longer)
    assert distance(seen.moments["up"].mean, everything.moments["up"].mean) > 1e-2
    assert seen.corpus == everything.corpus
    with pytest.raises(CraneError, match=r"document 2: has 3 tokens, but .* skip_first_tokens 3 needs at least 4"):
        stream_statistics(model, longer, skip_first_tokens=3)
    with pytest.raises(CraneError, match="skip_first_tokens is -1"):
        stream_statistics(model, longer, skip_first_tokens=-1)


def test_models_without_a_gate_or_a_limit():
    seen = stream_statistics(tiny_model("bloom"), [[1, 2] * 40], max_length=70)
    assert seen.tokens == 70
    assert list(seen.moments) == [site for site in SITES if site != "gate"]
    assert seen.moments["down"].shape == (2, 16)


def test_provenance_labels_and_progress():
    model = tiny_model(dtype=torch.float32)
    steps = []
    options = {"rule": "gradient", "token_budget": 1, "max_length": 8, "labels": {"language": "vi"}}
    seen = stream_statistics(model, CORPUS[:2], **options, progress=lambda *step: steps.append(step))
    first = fingerprint_weights(model)
    made_by = {"rule": "gradient", "objective": "gold_logit", "dtype": "float32", "max_length": "8"}
    made_by["skip_first_tokens"] = "0"
    assert seen.provenance == {"model": first, **made_by}
    assert seen.labels == {"language": "vi"}
    lengths = sorted(min(len(text), 8) for text in CORPUS[:2])  # the longest comes first
    assert steps == [(0, sum(lengths)), (lengths[1], sum(lengths)), (sum(lengths), sum(lengths))]
    assert stream_statistics(model, CORPUS[:1], model_fingerprint="base").provenance["model"] == "base"
    assert first == fingerprint_weights(tiny_model(dtype=torch.float32))
    assert first != fingerprint_weights(tiny_model(dtype=torch.float32, rms_norm_eps=1e-5))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert first != fingerprint_weights(model)


# --- shards as files ---


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Folder with the shards of CORPUS as they are when a process is killed just before it merges them."""
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_merged", failing)
        with pytest.raises(KeyboardInterrupt):
            stream_statistics(tiny_model(), CORPUS, token_budget=20, folder=tmp_path)
    return tmp_path


def failing(_parts):
    raise KeyboardInterrupt


def test_shards_as_files_give_the_same_bits_and_only_what_is_missing_or_of_something_else_is_made_again(shards, passes):
    model, steps, options = tiny_model(), [], {"token_budget": 20, "folder": shards}
    expected = stream_statistics(model, CORPUS, token_budget=20)
    paths = sorted(shards.iterdir())
    assert [path.name for path in paths] == [f"shard-{number:05}-of-00004.safetensors" for number in range(1, 5)]
    first, second, third, fourth = paths
    kept = Statistics.load(third)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    fourth.write_bytes(third.read_bytes())  # the statistics of other documents
    passes.clear()
    seen = stream_statistics(model, CORPUS, **options, labels={"l": "vi"}, progress=lambda *step: steps.append(step))
    assert same_bits(seen, expected)
    assert seen.labels == {"l": "vi"}
    assert sum(size for size, _checkpointing in passes) == 7 - kept.documents
    assert (steps[0], steps[-1]) == ((kept.tokens, TOKENS), (TOKENS, TOKENS))


def test_only_the_merged_file_stays_and_is_used_again(shards, passes):
    model, options, steps = tiny_model(), {"token_budget": 20, "folder": shards}, []
    passes.clear()
    expected = stream_statistics(model, CORPUS, **options)
    assert passes == []
    assert [path.name for path in shards.iterdir()] == [corpus.MERGED]
    assert same_bits(stream_statistics(model, CORPUS, **options, progress=lambda *step: steps.append(step)), expected)
    assert passes == []
    assert steps == [(TOKENS, TOKENS)]
    (shards / "shard-00001-of-00004.safetensors").touch()  # of a process that was killed while it removed them
    damaged = (shards / corpus.MERGED).read_bytes()[:-1]
    (shards / corpus.MERGED).unlink()  # `expected` may be a view of it
    (shards / corpus.MERGED).write_bytes(damaged)
    assert same_bits(stream_statistics(model, CORPUS, **options), expected)
    assert sum(size for size, _checkpointing in passes) == 7
    assert [path.name for path in shards.iterdir()] == [corpus.MERGED]


@pytest.mark.parametrize(
    "change",
    [{"rule": "gradient"}, {"objective": "log_probability"}, {"model_fingerprint": "other"}, {"skip_first_tokens": 1}],
)
def test_shards_made_in_another_way_are_not_used(tmp_path, passes, change):
    model, longer = tiny_model(), [document for document in CORPUS if len(document) > 1]
    stream_statistics(model, longer, token_budget=20, folder=tmp_path)
    passes.clear()
    seen = stream_statistics(model, longer, token_budget=20, folder=tmp_path, **change)
    assert sum(size for size, _checkpointing in passes) == 6
    assert same_bits(seen, stream_statistics(model, longer, token_budget=20, **change))


def test_a_pass_that_fails_leaves_its_finished_shards(tmp_path, monkeypatch, passes):
    model, steps = tiny_model(), []
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "document_relevance", failing_above(0, MemoryError(), after=2))
        with pytest.raises(CraneError, match="do not fit in memory"):
            stream_statistics(model, CORPUS, token_budget=17, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    options = {"token_budget": 17, "folder": tmp_path}
    stream_statistics(model, CORPUS, **options, progress=lambda *step: steps.append(step))
    assert steps[0] == (17 + 12, TOKENS)
    assert sum(size for size, _checkpointing in passes) == 5


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


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_a_document_too_big_for_memory_is_named_and_other_errors_pass_through(monkeypatch):
    monkeypatch.setattr(corpus, "document_relevance", failing_above(16, MemoryError()))
    with pytest.raises(CraneError, match="document 1: its 17 tokens do not fit in memory"):
        stream_statistics(tiny_model(), CORPUS)
    monkeypatch.setattr(corpus, "document_relevance", failing_above(0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        stream_statistics(tiny_model(), CORPUS)


@pytest.mark.parametrize(
    ("documents", "objective", "message"),
    [
        ([[1, 2], []], "gold_logit", "document 1: has 0 tokens"),
        ([[1], [1, 2]], "log_probability", "document 0: has 1 tokens, but .* needs at least 2"),
        ([[1], [2], [1, 53]], "gold_logit", "document 2: has token 53, but the model knows 0 to 52"),
        ([[1] * 65], "gold_logit", "document 0: has 65 tokens, but the model takes 64"),
        ([], "gold_logit", "no documents"),
        ([[1], np.array([1.0, 2.0])], "gold_logit", r"document 1: is an array \(2,\) of float64; expected token ids"),
        ([np.array([[1, 2, 3]])], "gold_logit", r"document 0: is an array \(1, 3\) of int64; expected token ids"),
        ([[1, 2, 3], [4, 5], [6, 50, 7], [8, 9]], "gold_logit", "document 2: its relevance is not finite"),
    ],
)
def test_bad_documents_are_named(documents, objective, message):
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = torch.inf
    with pytest.raises(CraneError, match=message):
        stream_statistics(model, documents, objective=objective)


# --- the plan of shards ---

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=150).map(np.array)


def one_section(_length):
    return 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths, st.integers(1, 200), st.integers(1, 9), st.integers(1, 5))
def test_every_document_is_in_one_shard_longest_first(lengths, token_budget, most_documents, shard_batches):
    options = {"token_budget": token_budget, "most_documents": most_documents, "shard_batches": shard_batches}
    plan = plan_shards(lengths, section=one_section, **options)
    order = np.concatenate([shard.documents for shard in plan])
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert order.tolist() == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    assert [(shard.number, shard.total) for shard in plan] == [(i + 1, len(plan)) for i in range(len(plan))]
    for shard in plan:
        assert 1 <= batches(lengths[shard.documents], token_budget, most_documents) <= shard_batches


def batches(lengths, token_budget, most_documents) -> int:
    count = 0
    while len(lengths):
        size = batch_size(lengths[0], token_budget=token_budget, most_documents=most_documents)
        assert size == 1 or (size <= most_documents and size * lengths[0] <= token_budget)
        lengths = lengths[size:]
        count += 1
    return count


@pytest.mark.parametrize(("documents", "shards"), [(1, 1), (7, 7), (63, 63), (64, 32), (1000, 33), (5000, 157)])
def test_small_corpora_are_cut_finely_enough_for_many_processes_and_large_ones_not_too_finely(documents, shards):
    plan = plan_shards(np.full(documents, 10), token_budget=10, most_documents=99, section=one_section)
    assert len(plan) == shards
    sizes = [len(shard.documents) for shard in plan]
    assert max(sizes) <= corpus.SHARD_BATCHES
    assert len(set(sizes[:-1])) <= 1


def test_a_file_that_is_shown_late_is_waited_for_and_one_that_never_comes_is_named(tmp_path, monkeypatch):
    (shard,) = plan_shards(np.full(1, 1), token_budget=1, most_documents=1, section=one_section)
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            some_statistics(torch.randn(1, 2, 3)).save(tmp_path / shard.name)

    monkeypatch.setattr(time, "sleep", sleep)
    assert next(read_files(tmp_path, [shard.name])).documents == 1
    assert len(naps) == 2
    monkeypatch.setattr(corpus, "VISIBLE_SECONDS", -1.0)
    with pytest.raises(CraneError, match="must be on a disk that all machines share"):
        next(read_files(tmp_path / "elsewhere", [shard.name]))
