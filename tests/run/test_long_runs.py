"""Long runs at a small size: what is held and what is read again do not grow with the number of documents or masks."""

import gc

import pytest
import torch

from benchmarks.long_runs import SMALL, long_masks, long_statistics, rows
from benchmarks.workloads import random_documents, random_model
from crane_lib.relevance import corpus, stream_statistics
from crane_study.steps import masks as masks_step


class Ended(Exception):
    """Stands for the end of a process in the middle."""


def held():
    """Bytes of all tensors that are alive."""
    return sum(item.nbytes for item in gc.get_objects() if issubclass(type(item), torch.Tensor))


def streamed(documents, folder=None, *, progress=None):
    given = {"token_budget": 96, "model_fingerprint": "random", "folder": folder, "progress": progress}
    return stream_statistics(random_model(SMALL), random_documents(SMALL, count=documents), **given)


def test_statistics_hold_no_more_for_more_documents():
    seen = {}
    for documents in (60, 240):
        gc.collect()
        before, found = held(), []
        streamed(documents, progress=lambda done, total, found=found: done > 0.9 * total and found.append(held()))
        seen[documents] = max(found) - before
    assert seen[240] < 2 * seen[60]  # 180 documents have twice as many values as that


@pytest.mark.parametrize("documents", [150, 450])
def test_a_stopped_pass_reads_a_bounded_number_of_files_and_repeats_less_than_a_shard(documents, tmp_path, monkeypatch):
    def stop(done, total):
        if done > 0.9 * total:
            raise Ended

    with pytest.raises(Ended):
        streamed(documents, tmp_path, progress=stop)
    reads, steps, read_header = [], [], corpus.read_header
    monkeypatch.setattr(corpus, "read_header", lambda path: [reads.append(path), read_header(path)][1])
    streamed(documents, tmp_path, progress=lambda *step: steps.append(step))
    assert len(reads) <= 2 * corpus.SHARDS + 1
    assert steps[0][0] > 0.8 * steps[0][1]
    assert [done for done, _total in steps] == sorted({done for done, _total in steps})
    assert steps[-1][0] == steps[-1][1] == sum(map(len, random_documents(SMALL, count=documents)))


def test_progress_memory_and_resuming_are_measured_over_documents_and_masks(monkeypatch):
    reads, read = [], masks_step.kept_frame

    def counted(path, *, state):
        found = read(path, state=state)
        reads.extend([path] * (found is not None))
        return found

    monkeypatch.setattr(masks_step, "kept_frame", counted)
    few, many = long_masks(12, 2, 1), long_masks(24, 2, 1)
    # A run that goes on reads every kept result once, and a call after the end those of all masks and of none.
    assert len(reads) == few.kept + 13 + many.kept + 25
    assert (few.kept, many.kept) == (12, 23)
    found = {row.what: row for row in rows("masks", "masks", (12, few), (24, many))}
    assert found["the share done never falls"].met
    assert found["time until a stopped run goes on"].value < found["time"].value
    assert found["time left told at 50% / as it was"].value > 0
    documents = long_statistics(120, 1)
    assert documents.steady
    assert documents.kept > 0
