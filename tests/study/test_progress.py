import json
from contextlib import suppress

import pytest

from crane_study import progress as module
from crane_study.progress import FILE_VARIABLE, advancing, progress, read_progress


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    monkeypatch.setattr(module, "_INTERVAL", -1.0)
    return path


def test_what_is_done_is_written_for_the_runner(file):
    with progress("Relevance", 4) as bar:
        bar.advance(note="loss 0.91")
        state = json.loads(file.read_text())
        assert state.pop("left") >= 0
        assert state == {"description": "Relevance", "done": 1, "total": 4, "note": "loss 0.91"}
        bar.advance(2)
        assert read_progress(file) == f"Relevance 3/4, {json.loads(file.read_text())['left']:.0f} s left"
    assert not file.exists()


def test_the_file_goes_after_a_failure_too(file):
    with suppress(ZeroDivisionError), progress("Work", 2) as bar:
        bar.advance()
        assert file.exists()
        raise ZeroDivisionError
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("before", [0, 5])
def test_the_time_left_is_in_proportion_to_what_was_done_now(file, monkeypatch, before):
    clock = iter([0.0, 10.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("Work", 5 + before) as bar:
        advance = advancing(bar)
        advance(before, 5 + before)
        advance(before + 2, 5 + before)
        state = json.loads(file.read_text())
        assert (state["done"], state["left"]) == (before + 2, 15.0)


def test_the_file_is_not_written_at_every_step(file, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 1e9)
    with progress("Work", 3) as bar:
        bar._written = module.time.monotonic()
        bar.advance()
        assert not file.exists()
        bar.advance(2)
        assert json.loads(file.read_text())["done"] == 3


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_the_bar_of_a_terminal_counts_what_was_done_before_and_may_wait_for_long_work(monkeypatch, delay):
    clock = iter([0.0, 4.0, 6.0, 6.0, 6.0])
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("Work", 10, delay=delay) as bar:
        bar.skip(4)
        bar.advance(1)
        assert (bar._bar is None) == bool(delay)
        bar.advance(2)
        (shown,) = bar._bar.tasks
        assert (shown.completed, shown.total) == (7, 10)


def test_without_terminal_and_file_nothing_is_shown(capsys):
    with progress("Work", 1) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, ""),
        ("", ""),
        ("{half", ""),
        (
            '{"description": "Work", "done": 0, "total": 2, "left": null, "note": "warming up"}',
            "Work 0/2 warming up",
        ),
    ],
)
def test_a_report_that_is_missing_cut_short_or_without_an_estimate(tmp_path, content, line):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    assert read_progress(path) == line
