"""Masks evaluated one after another, stopped in the middle and started again."""

import shutil
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

import crane_study.steps.masks as module
from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.neurons import NeuronSet
from crane_study.progress import FILE_VARIABLE, ProgressTask
from crane_study.steps.masks import evaluate_masks, evaluate_states, units_key
from tests.small import small_model


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(autouse=True)
def _all_are_kept(monkeypatch):
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)


def neurons(*layers, site="neuron", **labels):
    return NeuronSet(
        sites={site: [np.array(indices, dtype=np.int64) for indices in layers]}, widths={site: 24}, **labels
    )


def test_the_key_of_a_set_is_that_of_its_units():
    found = neurons([1, 2], [3], method="lape", language="en")
    sites = {"gate": [np.empty(0), np.empty(0)], "neuron": [np.array([1, 2], dtype=np.int32), np.array([3])]}
    other = NeuronSet(sites=sites, widths={"gate": 24, "neuron": 24}, method="contrast", language="vi")
    assert units_key(found) == units_key(other)
    assert units_key(neurons([], [])) == units_key(None)
    layers = [([], []), ([1, 2], [3]), ([1], [2, 3]), ([], [1, 2, 3]), ([1, 2, 3], []), ([1, 2], [4])]
    different = [*(neurons(*indices) for indices in layers), neurons([1, 2], [3], site="up")]
    assert len({units_key(item) for item in different}) == len(different)


class Work:
    """Five states; what is found in one is its number, and `stop_at` of them a kill comes."""

    def __init__(self, scratch, *, stop_at=None):
        self.seen, self.scratch, self.stop_at, self.state = [], scratch, stop_at, None

    @contextmanager
    def _in(self, state):
        self.state = state
        try:
            yield
        finally:
            self.state = None

    def _evaluate(self):
        if len(self.seen) == self.stop_at:
            raise Killed
        self.seen.append(self.state)
        return pd.DataFrame({"text": [f"{self.state}", "ß"], "value": [self.state / 3, np.nan]})

    def run(self):
        states = {f"state-{number}": lambda number=number: self._in(number) for number in range(5)}
        return dict(evaluate_states(states, self._evaluate, description="Work", scratch=self.scratch))


EXPECTED = {f"state-{n}": pd.DataFrame({"text": [f"{n}", "ß"], "value": [n / 3, np.nan]}) for n in range(5)}


def assert_whole(found):
    assert list(found) == list(EXPECTED)
    for name, frame in EXPECTED.items():
        pd.testing.assert_frame_equal(found[name], frame, check_exact=True)


def test_what_was_done_before_a_kill_is_not_done_again(tmp_path):
    killed = Work(tmp_path, stop_at=3)
    with pytest.raises(Killed):
        killed.run()
    assert (killed.seen, killed.state) == ([0, 1, 2], None)
    for seen in ([3, 4], []):
        again = Work(tmp_path)
        assert_whole(again.run())
        assert again.seen == seen


@pytest.mark.parametrize("in_folder", [False, True])
def test_nothing_is_kept_without_a_folder_or_if_it_took_no_time(tmp_path, monkeypatch, in_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "KEPT_SECONDS", 60.0)
    for _start in range(2):
        work = Work(tmp_path if in_folder else None)
        assert_whole(work.run())
        assert work.seen == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []


def test_broken_files_are_made_again(tmp_path):
    """One file cut short, one of something else, one of another state, one that is empty and one that is no table."""
    Work(tmp_path).run()
    files = [tmp_path / f"state-{number}.parquet" for number in range(5)]
    files[0].write_bytes(files[0].read_bytes()[:-40])
    pd.DataFrame({"value": [1.0]}).to_parquet(files[1])
    files[2].write_bytes(files[3].read_bytes())
    pd.read_parquet(files[3]).iloc[:0].to_parquet(files[3])
    files[4].write_bytes(b"")
    for seen in ([0, 1, 2, 3, 4], []):
        again = Work(tmp_path)
        assert_whole(again.run())
        assert again.seen == seen


def test_the_time_left_is_that_of_what_is_left(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        Work(tmp_path, stop_at=3).run()
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "progress.json"))
    monkeypatch.setattr(ProgressTask, "close", lambda _task: None)
    clock = iter(np.arange(0.0, 1000.0, 0.5))
    monkeypatch.setattr("crane_study.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("crane_study.progress._INTERVAL", 0.0)
    states, write = [], ProgressTask._write

    def record(task):
        write(task)
        states.append(read_json(tmp_path / "progress.json"))

    monkeypatch.setattr(ProgressTask, "_write", record)
    Work(tmp_path).run()
    assert [state["done"] for state in states] == [0, 4, 5]
    assert {state["total"] for state in states} == {5}
    assert states[0]["left"] is None
    assert 0 < states[1]["left"] < 10  # one left, at the pace of the one that was done now
    assert states[2]["left"] == 0


@pytest.fixture
def process(monkeypatch):
    """Stands for process `number` of two, one after the other: the barrier is passed at once."""

    def become(number, missing=None):
        monkeypatch.setattr(module, "world", lambda: 2)
        monkeypatch.setattr(module, "rank", lambda: number)
        monkeypatch.setattr(module, "share", lambda value: value if missing is None else missing)
        monkeypatch.setattr(module, "barrier", lambda: None)

    return become


def test_processes_deal_out_the_states_and_the_first_gets_the_whole(tmp_path, process, monkeypatch):
    monkeypatch.setattr(module, "KEPT_SECONDS", 60.0)  # they exchange what they find even so
    process(1, list(EXPECTED))
    second = Work(tmp_path)
    assert second.run() == {}
    assert second.seen == [1, 3]
    process(0, list(EXPECTED))
    first = Work(tmp_path)
    assert_whole(first.run())
    assert first.seen == [0, 2, 4]
    # A process that is not the first reads nothing after the others are done.
    process(1, list(EXPECTED))
    monkeypatch.setattr(module, "barrier", lambda: shutil.rmtree(tmp_path))
    assert Work(tmp_path).run() == {}


def test_what_another_process_wrote_is_not_to_be_seen(tmp_path, process, monkeypatch):
    monkeypatch.setattr("crane_study.locks.VISIBLE_SECONDS", -1.0)
    process(0)
    with pytest.raises(CraneError, match=r"state-1\.parquet: another process wrote it, but .* disk that all machines"):
        Work(tmp_path).run()


def test_equal_masks_are_evaluated_once_under_all_their_names():
    masks = [
        ("", None),
        ("base", neurons([1, 2], [3], language="en")),
        ("base", neurons([5], [])),
        ("chat", neurons([1, 2], [3], language="vi")),
        ("base", neurons([], [])),
    ]
    model, states = small_model(50), []

    def evaluate():
        states.append(hasattr(model, "_crane_masked"))
        return pd.DataFrame({"call": [len(states)]})

    found = evaluate_masks(model, masks, evaluate, description="Masks")
    assert [(places, frame["call"].tolist()) for places, frame in found] == [([0, 4], [1]), ([1, 3], [2]), ([2], [3])]
    assert states == [False, True, True]
