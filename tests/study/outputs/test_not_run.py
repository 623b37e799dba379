"""Parts that a section cannot run are printed, kept for the reports, and removed when it runs again."""

import pytest

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json, write_text
from crane_run.report import report_context, write_reports
from crane_study.publish import LOCK, NOT_RUN_FILE, Publisher, forget_not_run, read_not_run

REASON = "the profile names no chat model (source.chat_model)"


def test_it_is_printed_and_kept(tmp_path, capsys):
    Publisher(tmp_path, "07").not_run("transfer to the chat model", REASON)
    Publisher(tmp_path, "05").not_run("open-ended answers", REASON)
    assert capsys.readouterr().out == f"NOT RUN: {REASON}\n" * 2
    assert list(read_not_run(tmp_path)) == ["05", "07"]
    assert read_json(tmp_path / NOT_RUN_FILE)["07"] == {"transfer to the chat model": REASON}
    assert not (tmp_path / LOCK).exists()
    # A section that runs again replaces what it recorded.
    Publisher(tmp_path, "07").not_run("transfer", "no model")
    Publisher(tmp_path, "05").not_run("agreement of judges", "one judge only")
    assert read_not_run(tmp_path) == {"05": {"agreement of judges": "one judge only"}, "07": {"transfer": "no model"}}
    Publisher(tmp_path, "05")
    Publisher(tmp_path, "03")
    assert read_not_run(tmp_path) == {"07": {"transfer": "no model"}}
    forget_not_run(tmp_path, "07")
    assert not (tmp_path / NOT_RUN_FILE).exists()


def test_both_reports_say_it_with_its_section(run):
    Publisher(run, "07").not_run("transfer to the chat model", REASON)
    line = f"Section 07, transfer to the chat model: {REASON}."
    assert line in report_context(run)["missing"]
    write_reports(run)
    assert f"- {line}" in (run / "report.md").read_text(encoding="utf-8")
    assert f"<li>{line}</li>" in (run / "report.html").read_text(encoding="utf-8")
    # Sections that never ran are named with their command.
    command = "./run_all.sh --profile mini --only 01"
    lines = report_context(run)["missing"]
    assert f"Section 01_relevance: was never run; `{command}` runs it." in lines
    assert not any(line.startswith(("Section 00", "Section 03")) for line in lines)  # these ran
    assert [line for line in lines if line.startswith("Section 05")] == ["Section 05_transfer: E: x"]  # this one failed
    told = f"Section 01_relevance: was never run; <code>{command}</code> runs it."
    assert told in (run / "report.html").read_text(encoding="utf-8")


def test_a_damaged_file_is_named(tmp_path):
    write_json(tmp_path / NOT_RUN_FILE, {"05": "no questions"})
    with pytest.raises(CraneError, match=r"not_run.json: expected an object of objects"):
        read_not_run(tmp_path)
    write_text(tmp_path / NOT_RUN_FILE, "{")
    with pytest.raises(CraneError, match=r"not_run.json: is not JSON"):
        Publisher(tmp_path, "05")
