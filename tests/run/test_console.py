import os
import pty
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from crane_run import console as console_module
from crane_run import schedule
from crane_run.console import Console
from crane_run.schedule import REST, Board, Row
from crane_study.progress import Report


def board(*expected):
    work = [None if seconds is None else {REST: seconds} for seconds in expected]
    return Board([Row(f"0{number}", f"Title {number}", left) for number, left in enumerate(work)])


def untimed(text):
    """Lines without the time of day."""
    return [re.sub(r"^\[\d\d:\d\d:\d\d\] ", "[now] ", line) for line in text.splitlines()]


def test_without_a_terminal_each_section_is_one_line_and_whole(capsys, tmp_path):
    console, rows = Console(), board(65.0, 65.0, None)
    rows.row("00").title = "Masks [and more] " + "x" * 100
    rows.row("02").state, rows.row("02").seconds = "reused", 7.0
    console.start("mini", Path("out"), rows)
    with console.watching(rows):
        rows.row("00").start(Report)
        console.started(rows.row("00"))
        rows.row("00").stop("done")
        console.done(rows.row("00"))
        rows.row("01").stop("failed")
        error = "[bold]error[/bold] " + "y" * 100
        console.failed(rows.row("01"), error, notebook=tmp_path / "n.ipynb", log=tmp_path / "n.log")
    assert untimed(capsys.readouterr().out)[1:] == [
        "02  Title 2: reused, nothing changed (took 7 s when it was made)",
        f"[now] 00  Masks [and more] {'x' * 100}: starts",
        f"[now] 00  Masks [and more] {'x' * 100}: done in 0 s",
        f"[now] 01  Title 1: FAILED after 0 s: [bold]error[/bold] {'y' * 100}",
        f"    its notebook: {tmp_path / 'n.ipynb'}",
        f"    its log: {tmp_path / 'n.log'}",
    ]


def test_the_total_and_what_is_there_are_told_with_paths_from_the_working_folder_on(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "artifacts" / "mini"
    (folder / "tables").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rows, console = board(60.0, 70.0), Console()
    console.start("mini", folder, rows, disk=", 160 MB of disk (2.0 GB free)")
    Console().start("mini", Path("out"), board(60.0, None))
    console.failed(rows.row("00"), "error", notebook=folder / "n.ipynb", log=folder / "n.log")
    console.finish(folder, rows)
    assert untimed(capsys.readouterr().out) == [
        "CRANE, profile mini: 2 sections into artifacts/mini, about 2 min 10 s on this machine, 160 MB of disk "
        "(2.0 GB free)",
        "CRANE, profile mini: 2 sections into out",  # not every section has been timed
        "[now] 00  Title 0: FAILED after 0 s: error",
        "    its notebook: artifacts/mini/n.ipynb",
        "    its log: artifacts/mini/n.log",
        "All 2 sections done in 0 s",
        "  artifacts/mini/tables/  each table as CSV, Markdown and LaTeX",
    ]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # paths outside it are told whole
    (folder / "report.md").touch()
    (folder / "report.html").touch()
    rows.row("01").stop("failed")
    console.finish(folder, rows)
    assert capsys.readouterr().out.splitlines() == [
        "1 of 2 sections failed in 0 s",
        f"  {folder / 'report.html'}  what was reproduced, with every table and figure, in one file",
        f"  {folder / 'report.md'}    the same as text",
        f"  {folder / 'tables'}/      each table as CSV, Markdown and LaTeX",
    ]


@contextmanager
def terminal(monkeypatch):
    """Standard output is a terminal within the block; gives a function that reads what was written to it."""
    reader, writer = pty.openpty()
    os.set_blocking(reader, False)
    written = []

    def read():
        with suppress(BlockingIOError):
            while data := os.read(reader, 65536):
                written.append(data)
        return b"".join(written).decode()

    with monkeypatch.context() as patch, open(writer, "w", encoding="utf-8", buffering=1) as stream:
        patch.setenv("TERM", "xterm-256color")
        patch.setenv("COLUMNS", "120")
        patch.setattr(sys, "stdout", stream)
        yield read
    os.close(reader)


def test_a_terminal_gets_a_table_of_every_section_and_continuous_integration_lines(monkeypatch, tmp_path):
    monkeypatch.delenv("CI", raising=False)
    rows = board(100.0, 100.0, 100.0, 100.0)
    rows.row("00").state, rows.row("00").seconds = "reused", 75.0
    rows.row("01").title = "Masks [and more]"
    with terminal(monkeypatch) as read:
        console = Console()
        console.start("mini", tmp_path, rows)
        with console.watching(rows):
            rows.row("01").start(lambda: Report("Requests 4/8"))
            rows.row("02").start(Report)
            rows.row("02").stop("done")
            console.done(rows.row("02"))
        text = read()
    said = ("reused", "(75 s)", "Masks [and more]", "running", "Requests 4/8", "waiting", "about 100 s", "left (")
    assert all(words in text for words in said)
    assert not any(words in text for words in ("done in", "nothing changed"))  # the table says it
    monkeypatch.setenv("CI", "true")
    rows = board(100.0)
    with terminal(monkeypatch) as read:
        console = Console()
        with console.watching(rows):
            rows.row("00").start(lambda: Report("Requests 4/8"))
            rows.row("00").stop("done")
            console.done(rows.row("00"))
        assert untimed(read()) == ["[now] 00  Title 0: done in 0 s"]


def test_without_a_terminal_a_line_every_half_minute_says_how_far_it_is(capsys, monkeypatch):
    clock = [1000.0]
    for module in (console_module, schedule):
        monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    console, rows = Console(), board(100.0, 300.0, 100.0)
    rows.jobs = 2
    console.start("mini", Path("out"), rows)
    rows.row("00").start(lambda: Report("Perplexity under masks 4/8"))
    rows.row("01").start(lambda: Report("x" * 200))
    capsys.readouterr()
    for _ in range(70):  # seconds
        rows.look()
        console.tell(rows)
        clock[0] += 1
    first, second = untimed(capsys.readouterr().out)
    said = r"00 Perplexity under masks 4/8; 01 x{80}; 0 of 3 sections done, about (.*) left \(until \d\d:\d\d\)"
    assert [re.fullmatch(rf"\[now\] {said}", line)[1] for line in (first, second)] == ["4 min 30 s", "4 min 00 s"]
    rows.row("00").stop("done")
    rows.row("01").work = None
    clock[0] += 30
    console.tell(rows)
    assert untimed(capsys.readouterr().out) == [f"[now] 01 {'x' * 80}; 1 of 3 sections done, time left not known"]


def test_what_could_be_reused_is_told_both_ways(capsys):
    rows = board(60.0)
    rows.row("00").kept = {"corpus": 100.0}
    Console().start("mini", Path("out"), rows)
    assert capsys.readouterr().out.endswith(", about 60 s on this machine, 2 min 40 s if no stage can be reused\n")
