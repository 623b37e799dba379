"""The passes of a relevance stage in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from pydantic import TypeAdapter

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.relevance import Statistics
from crane_lib.relevance import corpus as stream
from crane_lib.scores import statistics_file
from crane_study import ROOT
from crane_study.frames import write_frame
from crane_study.steps.relevance import (
    Passes,
    divided,
    half_folder,
    make_relevance,
    merged_parts,
    run_in_processes,
)
from tests.run.notebooks import is_alive
from tests.small import PASSES, TEXTS, write_model

OPTIONS = replace(PASSES, objectives=["gold_logit"], token_budget=64)


def write_corpus(folder, texts):
    rows = [{"split": "relevance", "language": k, "text": text} for k, documents in texts.items() for text in documents]
    write_frame(folder / "documents.parquet", pd.DataFrame(rows))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("passes")
    write_model(root / "model")
    write_corpus(root / "corpus", {language: texts[:6] for language, texts in TEXTS.items()})
    return root


@pytest.fixture(autouse=True)
def _one_thread():
    """As many as each of two processes has on two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def relevance(root, folder, **settings):
    folder.mkdir()
    make_relevance(folder, corpus=root / "corpus", model=root / "model", options=OPTIONS, **settings)
    return folder


def test_two_processes_make_the_shards_and_the_stage_puts_them_together(root, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    passes = Passes(corpus=root / "corpus", model=root / "model", options=OPTIONS, checkpointing=True)
    run_in_processes(passes, count=2, scratch=tmp_path / "scratch")
    assert {path.name for path in (tmp_path / "scratch").iterdir() if path.is_dir()} == {
        f"{name}.{language}" for name in ("gold_logit", "gradient") for language in ("en", "vi")
    }
    together = relevance(root, tmp_path / "alone")

    def never(*_arguments, **_settings):
        raise AssertionError("every shard is there")

    monkeypatch.setattr(stream, "document_relevance", never)
    again = relevance(root, tmp_path / "again", scratch=tmp_path / "scratch")
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (again, together)]
    assert len(files[0]) == 6
    assert files[0] == files[1]


def test_halves_are_of_disjoint_documents_and_cost_no_pass(root, tmp_path):
    """The parts lie within the halves, the halves are disjoint, and together they are the statistics of everything."""
    texts = {language: [*texts[:9], *(f"{text} {text}" for text in texts[:9])] for language, texts in TEXTS.items()}
    write_corpus(tmp_path / "corpus", texts)
    (folder := tmp_path / "relevance").mkdir()
    make_relevance(folder, corpus=tmp_path / "corpus", model=root / "model", options=OPTIONS)
    assert {path.name for path in (folder / "halves").iterdir()} == {"2a", "2b"}  # an eighth would be too few
    first, second, whole = (
        Statistics.load(statistics_file(path, "gradient", "vi"))
        for path in (half_folder(folder, 2, "a"), half_folder(folder, 2, "b"), folder)
    )
    assert (first.documents, second.documents, whole.documents) == (9, 9, 18)
    first.merge(second)
    assert first.corpus == whole.corpus
    torch.testing.assert_close(first.moments["gate"].m4, whole.moments["gate"].m4)


@pytest.mark.parametrize(("count", "halves"), [(67, [8, 4, 2]), (23, [2]), (11, [])])
def test_parts_are_disjoint_and_their_documents_are_asked_for_once(count, halves):
    """Against sums over the documents of each part, one by one."""
    values = np.random.default_rng(0).random(count)
    asked = []

    def stream(start, end):
        asked.extend(range(start, end))
        return Sum(values[start:end].sum())

    parts = divided(count, fewest=count)
    found = {part: item.value for part, item in merged_parts(parts, stream)}
    assert asked == list(range(count))
    assert found == pytest.approx({part: sum(values[start:end]) for part, (start, end) in parts.items()})
    for part in halves:
        (first, a), (second, b) = (parts[f"halves/{part}{side}", ""] for side in "ab")
        assert a - first == b - second == count // part
        assert a <= second
    assert len([folder for folder, _name in parts if folder.startswith("halves")]) == 2 * len(halves)
    thirds = [parts[part] for part in parts if part[0] == "thirds"]
    if count >= 12:
        assert [end for _start, end in thirds][:-1] == [start for start, _end in thirds][1:]
        assert (thirds[0][0], thirds[-1][1]) == (0, count)
        assert {end - start for start, end in thirds} <= {count // 3, count // 3 + 1}
    assert divided(count, fewest=0) == {("", ""): (0, count)}


class Sum:
    def __init__(self, value):
        self.value = value

    def merge(self, other):
        self.value += other.value


def test_statistics_of_thirds_are_those_of_everything_together(root, tmp_path):
    texts = {language: [*texts[:9], *(f"{text} {text}" for text in texts[:9])] for language, texts in TEXTS.items()}
    write_corpus(tmp_path / "corpus", texts)
    (folder := tmp_path / "relevance").mkdir()
    make_relevance(folder, corpus=tmp_path / "corpus", model=root / "model", options=OPTIONS)
    thirds = [Statistics.load(statistics_file(folder / "thirds", "gold_logit", f"en-{n}")) for n in (1, 2, 3)]
    whole = Statistics.load(statistics_file(folder, "gold_logit", "en"))
    assert [item.documents for item in thirds] == [6, 6, 6]
    assert len({item.corpus for item in thirds}) == 3
    first, second, last = thirds
    first.merge(second)
    first.merge(last)
    assert first.corpus == whole.corpus
    torch.testing.assert_close(first.moments["neuron"].mean, whole.moments["neuron"].mean)
    torch.testing.assert_close(first.magnitude, whole.magnitude)


def test_a_stage_skips_the_first_tokens(root, tmp_path):
    found = {}
    for skip in (0, 3):
        (folder := tmp_path / f"{skip}").mkdir()
        options = replace(OPTIONS, skip_first_tokens=skip)
        make_relevance(folder, corpus=root / "corpus", model=root / "model", options=options)
        found[skip] = Statistics.load(statistics_file(folder, "gradient", "vi"))
    assert found[0].tokens - found[3].tokens == 3 * found[0].documents
    assert (found[3].active <= found[0].active).all()


@pytest.fixture
def torchrun(tmp_path, monkeypatch):
    """Puts a shell script in torchrun's place."""

    def replace(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        return Passes(corpus=Path("corpus"), model=Path("model"), options=OPTIONS)

    return replace


@pytest.mark.parametrize(("threads", "count", "each"), [(6, 2, "3"), (6, 4, "1"), (2, 1000, "1")])
def test_what_the_processes_are_told_and_their_share_of_threads(torchrun, tmp_path, monkeypatch, threads, count, each):
    """Threads of the stage and not of the section, whose share is in the environment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    passes = torchrun(f'echo "$OMP_NUM_THREADS" "$@" > {tmp_path}/said')
    run_in_processes(passes, count=count, scratch=tmp_path)
    said = (tmp_path / "said").read_text().split()
    assert said[:6] == [each, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    file = tmp_path / "passes.json"
    assert said[6:] == [f"--nproc-per-node={count}", "-m", "crane_run.cli", "relevance-passes", str(file)]
    assert TypeAdapter(Passes).validate_python(read_json(file)) == passes


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("warning\nerror: model x: absent\nTraceback\nerror: model x: absent", "model x: absent"),
        (
            "Traceback\n  raise ValueError: x\ntorch.OtherError: odd\nelastic.errors.ChildFailedError: \n=====",
            "the 2 processes of the pass failed: torch.OtherError: odd",
        ),
        (
            "traceback : Signal 9 (SIGKILL) received by PID 7\nexitcode : -9 (SIGKILL)",
            "one of the 2 processes of the pass was killed; was there too little memory?",
        ),
        ("=====", "the 2 processes of the pass failed: they did not say why"),
    ],
)
def test_what_a_process_complains_of_is_one_line(torchrun, tmp_path, said, words):
    (tmp_path / "said").write_text(said)
    passes = torchrun(f"cat {tmp_path}/said >&2; exit 1")
    with pytest.raises(CraneError) as error:
        run_in_processes(passes, count=2, scratch=tmp_path)
    assert str(error.value) == words


def test_batches_that_shrank_in_a_process_are_told_of(torchrun, tmp_path):
    passes = torchrun("echo 'stream.py:40: UserWarning: memory ran out: going on with 40 tokens a batch' >&2")
    with pytest.warns(UserWarning, match=r"^memory ran out: going on with 40 tokens a batch$"):
        run_in_processes(passes, count=2, scratch=tmp_path)


def test_an_interrupted_stage_asks_its_processes_to_end(torchrun, tmp_path, monkeypatch):
    passes = torchrun("exec sleep 60")
    started = []

    def interrupted(process):
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_in_processes(passes, count=2, scratch=tmp_path)
    assert started[0].returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


@pytest.mark.parametrize("kill", [os.killpg, os.kill])
def test_no_process_computes_on_when_a_kernel_is_killed(root, tmp_path, kill):
    """As a run's end kills it, with its group, in which torchrun is but not torchrun's processes; or it alone."""
    write_corpus(tmp_path / "corpus", {language: texts * 300 for language, texts in TEXTS.items()})
    program = f"""
from pathlib import Path
from crane_study.options import Loading, PassOptions
from crane_study.steps.relevance import Passes, run_in_processes
files = {{"corpus": Path({str(tmp_path / "corpus")!r}), "model": Path({str(root / "model")!r})}}
passes = Passes(**files, options={OPTIONS!r}, checkpointing=True)
run_in_processes(passes, count=2, scratch=Path({str(tmp_path)!r}))
"""
    kernel = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
    started = []
    try:
        wait_until(lambda: any(tmp_path.glob("gold_logit.en*/shard-*")) or kernel.poll() is not None)
        (agent,) = psutil.Process(kernel.pid).children()
        workers = agent.children()
        started = [agent, *workers]
        assert len(workers) == 2
        assert all(os.getsid(worker.pid) not in (kernel.pid, os.getsid(0)) for worker in workers)
        kill(kernel.pid, signal.SIGKILL)
        wait_until(lambda: not any(is_alive(process.pid) for process in started), seconds=60)
        assert not (tmp_path / "gradient.vi").exists()  # they did not end because all was done
    finally:
        kernel.kill()
        kernel.wait()
        for process in started:
            if process.is_running():
                process.kill()


def wait_until(condition, *, seconds=240):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_the_stage_starts_the_processes_it_is_told_to_and_needs_a_scratch_folder(root, tmp_path, monkeypatch):
    with pytest.raises(CraneError, match="relevance in 3 processes needs a scratch folder"):
        relevance(root, tmp_path / "none", processes=3)
    asked = []
    monkeypatch.setattr(
        "crane_study.steps.relevance.run_in_processes",
        lambda passes, *, count, scratch: asked.append((passes.checkpointing, count, scratch)),
    )
    folder = relevance(root, tmp_path / "folder", processes=3, checkpointing=True, scratch=tmp_path / "scratch")
    assert asked == [(True, 3, tmp_path / "scratch")]
    assert statistics_file(folder, "gradient", "vi").is_file()
