import json
import re
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from crane_study import progress as module
from crane_study.progress import (
    FILE_VARIABLE,
    Report,
    advancing,
    can_redraw,
    forget_report,
    note_stage,
    progress,
    read_report,
    seconds_text,
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    monkeypatch.setattr(module, "_INTERVAL", -1.0)
    return path


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when the test says so."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_seconds_for_people():
    told = {0.2: "0 s", 119.4: "119 s", 119.6: "2 min 00 s", 185: "3 min 05 s", 7210: "2 h 00 min"}
    assert {seconds: seconds_text(seconds) for seconds in told} == told


def test_what_is_done_is_written_for_the_runner(file, clock):
    note_stage("corpus", "reused")
    note_stage("relevance_base", "making")
    with progress("Relevance", 4) as bar:
        stages = {"corpus": "reused", "relevance_base": "making"}
        assert read_report(file) == Report("Relevance 0/4", stages, 0.0, 0.0)
        bar.skip(1)
        clock[0] = 300.0
        bar.advance(note="loss 0.91")
        assert read_report(file) == Report("Relevance 2/4 loss 0.91, 10 min 00 s left", stages, 0.5, 0.25)
    note_stage("relevance_base", "made")
    assert read_report(file) == Report(stages={"corpus": "reused", "relevance_base": "made"})
    with progress("Loading the model"):
        assert read_report(file).line == "Loading the model"
        assert read_report(file).share is None
    forget_report(file)
    assert list(file.parent.iterdir()) == []


def test_the_file_goes_after_a_failure_too(file):
    with suppress(ZeroDivisionError), progress("Work", 2) as bar:
        bar.advance()
        assert file.exists()
        raise ZeroDivisionError
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("before", [0, 5])
def test_the_time_left_is_in_proportion_to_what_was_done_now(file, clock, before):
    with progress("Work", 5 + before) as bar:
        advance = advancing(bar)
        advance(before, 5 + before)
        clock[0] = 10.0
        advance(before + 2, 5 + before)
        state = json.loads(file.read_text())
        assert (state["done"], state["left"]) == (before + 2, 15.0)


def test_the_file_is_not_written_at_every_step(file, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 1e9)
    with progress("Work", 3) as bar:
        bar.advance()
        assert json.loads(file.read_text())["done"] == 0
        bar.advance(2)
        assert json.loads(file.read_text())["done"] == 3


def wait_until(true):
    until = time.time() + 10
    while not true() and time.time() < until:
        time.sleep(0.01)
    assert true()


@contextmanager
def on_a_terminal(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        patch.setenv("TERM", "xterm")
        patch.delenv("CI", raising=False)
        yield patch


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_the_bar_of_a_terminal_counts_what_was_done_before_and_may_wait_for_long_work(monkeypatch, delay):
    with on_a_terminal(monkeypatch), progress("Work", 10, delay=delay) as bar:
        assert (bar._bar is None) == bool(delay)
        bar.skip(4)
        bar.advance(1)
        wait_until(lambda: bar._bar is not None)
        bar.advance(2)
        (shown,) = bar._bar.tasks
        assert (shown.completed, shown.total) == (7, 10)


def test_a_terminal_whose_lines_are_kept_is_not_redrawn(monkeypatch):
    with on_a_terminal(monkeypatch) as patch:
        assert can_redraw(sys.stderr)
        patch.setenv("CI", "1")
        assert not can_redraw(sys.stderr)
        patch.setenv("CI", "false")
        patch.setenv("TERM", "dumb")
        assert not can_redraw(sys.stderr)


@pytest.mark.parametrize(
    ("total", "line"), [(4, r"Work 1/4 loss 2\.1, \d+ s left"), (None, r"Work loss 2\.1, \d+ s so far")]
)
def test_without_a_terminal_lines_say_from_time_to_time_how_far_it_is_also_while_a_step_lasts(
    monkeypatch, capsys, total, line
):
    with progress("Work", total) as bar:  # shorter than the time between two lines
        bar.advance()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(module, "TELL_SECONDS", 0.02)
    with progress("Work", total) as bar:
        bar.advance(note="loss 2.1")
        said = ""

        def two_lines():
            nonlocal said
            said += capsys.readouterr().err
            return said.count("\n") >= 2

        wait_until(two_lines)
    said += capsys.readouterr().err
    *lines, last = said.splitlines()
    assert all(re.fullmatch(rf"\[\d\d:\d\d:\d\d\] {line}", one) for one in lines)
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] Work: ended after \d+ s", last)


@pytest.mark.parametrize("content", [None, "", "{half"])
def test_a_report_that_is_missing_or_cut_short_is_empty(tmp_path, content):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
        path.with_suffix(".stages").write_text(content)
    assert read_report(path) == Report()
