import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_lib.relevance import corpus as module
from crane_lib.relevance.corpus import _merged, batch_size, is_finished, plan_shards, read_shards
from tests.lib.relevance.test_statistics import PROVENANCE, some_statistics

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
    assert max(sizes) <= module.SHARD_BATCHES
    assert len(set(sizes[:-1])) <= 1


def test_a_batch_has_at_least_one_document_and_not_too_many():
    assert batch_size(100, token_budget=10, most_documents=5) == 1
    assert batch_size(10, token_budget=40, most_documents=5) == 4
    assert batch_size(1, token_budget=40, most_documents=5) == 5


def test_the_name_of_a_file():
    shard = plan_shards(np.full(40, 1), token_budget=1, most_documents=1)[2]
    assert shard.name == "shard-00003-of-00040.safetensors"


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
    monkeypatch.setattr(module, "VISIBLE_SECONDS", -1.0)
    with pytest.raises(CraneError, match="must be on a disk that all machines share"):
        next(read_shards(tmp_path / "elsewhere", [shard]))
