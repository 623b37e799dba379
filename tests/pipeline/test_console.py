from pathlib import Path

import pytest

from crane_lib.pipeline.console import Console, seconds_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (48.4, "48 s"), (119.4, "119 s"), (119.6, "2 min 00 s"), (185, "3 min 05 s"), (4000, "66 min 40 s")],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


def test_the_total_is_said_where_every_section_has_been_timed(capsys):
    Console().start("mini", Path("out"), [("00", "A", 60.0), ("01", "B", 70.0)])
    Console().start("mini", Path("out"), [("00", "A", 60.0), ("01", "B", None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "CRANE, profile mini: 2 sections into out, about 2 min 10 s if nothing can be reused",
        "CRANE, profile mini: 2 sections into out",
    ]


def test_without_a_terminal_each_line_is_printed_once_and_whole(capsys, tmp_path):
    console = Console()
    with console.running("03", "Masks [and more] " + "x" * 100, 65.0, tmp_path / "p.json"):
        pass
    console.failed("03", "Masks", 5.0, "[bold]error[/bold] " + "y" * 100, tmp_path / "n.ipynb")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"03  Masks [and more] {'x' * 100}: running, expected 65 s",
        f"03  Masks: FAILED after 5 s: [bold]error[/bold] {'y' * 100}",
        f"    its notebook: {tmp_path / 'n.ipynb'}",
    ]


def test_the_end_names_what_is_there(capsys, tmp_path):
    (tmp_path / "report.md").write_text("")
    (tmp_path / "report.html").write_text("")
    (tmp_path / "tables").mkdir()
    Console().finish(tmp_path, 61, 3, [])
    assert capsys.readouterr().out.splitlines() == [
        "All 3 sections done in 61 s",
        f"  {tmp_path / 'report.html'}",
        f"  {tmp_path / 'report.md'}",
        f"  {tmp_path / 'tables'}/",
    ]
    Console().finish(tmp_path, 61, 3, [("section", "error")])
    assert capsys.readouterr().out.startswith("1 of 3 sections failed in 61 s")
