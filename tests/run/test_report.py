"""The report of a made-up run."""

import re

import pytest

from crane_lib.errors import CraneError
from crane_run.report import write_report


def _plain(path):
    """Text of a Markdown file without the spaces that pad its tables."""
    return re.sub(" +", " ", path.read_text(encoding="utf-8"))


def test_report(run):
    write_report(run)
    text = _plain(run / "report.md")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == [
        "Verdicts",
        "The claims and their numbers",
        "Tables and figures",
        "Not run",
        "Times",
        "Made with",
    ]
    assert "| C1 | Masking a language's units hurts that language most | REPRODUCED |" in text
    assert "| REPRODUCED | REPRODUCED | REPRODUCED | REPRODUCED | does not hold |" in text
    assert "than LAPE | NOT RUN | NOT RUN | NOT RUN | NOT RUN | cannot be judged |" in text
    assert "By the same rule it cannot be judged in the published numbers. Random draws: 1, at least 5" in text
    assert "- C2, Relevance contrast, 10 %, accuracy: no LangSpec-F1 by accuracy for LAPE, as published" in text
    assert "`./run_all.sh --profile mini --only 03`" in text
    assert "**This section failed:** E: x" in text
    assert "- Section 05_transfer: E: x" in text
    assert "| stage | base_model | 99.5 |" in text
    assert "Commit `abc123` with uncommitted changes" in text
    assert "absent" not in text
    assert "No longer there." not in text
    assert "75.3%" in text


def test_links_lead_to_files(run):
    write_report(run)
    text = (run / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 8
    assert [link for link in links if not (run / link).is_file()] == []


def test_long_tables_are_linked(run):
    write_report(run)
    text = _plain(run / "report.md")
    rows = (run / "tables" / "03_perplexity.csv").read_text(encoding="utf-8").count("\n") - 1
    assert f"{rows} rows: see the files." in text
    assert "| Vietnamese | 336 | 0.730 |" in text


def test_same_bytes_twice(run):
    write_report(run)
    before = (run / "report.md").read_bytes()
    write_report(run)
    assert (run / "report.md").read_bytes() == before


def test_report_of_an_empty_run(tmp_path):
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No claim has been judged yet" in text
    assert "Selection on 1,000 instead of 5,000 documents" in text


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "captions.json").write_text("{", encoding="utf-8")
    with pytest.raises(CraneError, match=r"captions\.json: is not JSON"):
        write_report(tmp_path)
    (tmp_path / "captions.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CraneError, match="expected an object, saw list"):
        write_report(tmp_path)
