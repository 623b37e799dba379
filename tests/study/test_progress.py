import json

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
        assert {**state, "left": None} == {
            "description": "Relevance",
            "done": 1,
            "total": 4,
            "left": None,
            "note": "loss 0.91",
        }
        assert state["left"] >= 0
        bar.advance(2)
        assert read_progress(file) == f"Relevance 3/4, {json.loads(file.read_text())['left']:.0f} s left"
    assert not file.exists()


def test_the_file_goes_after_a_failure_too(file):
    def fail():
        with progress("Work", 2) as bar:
            bar.advance()
            assert file.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(file.parent.iterdir()) == []


def test_the_time_left_is_in_proportion(file, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("Work", 5) as bar:
        bar.advance(2)
        assert json.loads(file.read_text())["left"] == 15.0


def test_what_was_done_before_costs_no_time(file, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("Work", 10) as bar:
        advance = advancing(bar)
        advance(5, 10)  # 5 were there at the start
        advance(7, 10)
        state = json.loads(file.read_text())
        assert (state["done"], state["left"]) == (7, 15.0)


def test_the_file_is_not_written_at_every_step(file, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 1e9)
    with progress("Work", 3) as bar:
        bar._written = module.time.monotonic()
        bar.advance()
        assert not file.exists()
        bar.advance(2)
        assert json.loads(file.read_text())["done"] == 3


def test_the_bar_of_a_terminal_counts_what_was_done_before(monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with progress("Work", 10) as bar:
        bar.skip(4)
        bar.advance(2)
        (shown,) = bar._bar.tasks
        assert (shown.completed, shown.total) == (6, 10)


def test_a_delayed_bar_shows_only_long_work(monkeypatch):
    clock = iter([0.0, 4.0, 6.0, 6.0, 6.0])
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("Work", 10, delay=5.0) as bar:
        bar.advance(2)
        assert bar._bar is None
        bar.advance(3)
        (shown,) = bar._bar.tasks
        assert (shown.completed, shown.total) == (5, 10)


def test_without_terminal_and_file_nothing_is_shown(capsys):
    with progress("Work", 1) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("content", [None, "", "{half"])
def test_a_report_that_is_not_there_or_not_whole(tmp_path, content):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    assert read_progress(path) == ""


def test_a_report_with_a_note_and_without_an_estimate(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"description": "Work", "done": 0, "total": 2, "left": None, "note": "warming up"}))
    assert read_progress(path) == "Work 0/2 warming up"
