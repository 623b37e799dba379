"""The whole study, run as a user runs it, on the smoke profile; then the outputs that notebooks keep, with nbval."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from crane_lib.files import sha256
from crane_run.references import REFERENCES
from crane_run.sections import all_sections
from crane_run.verify import verify
from crane_study import ROOT
from crane_study.measure.rows import COLUMNS
from tests.faults.kills import Killer, differing, results, study
from tests.faults.sealed import can_seal, sealed
from tests.run.inspect.browser import chromium
from tests.study.outputs.paper import FLAGS, on_paper, wider_than_paper
from tools.notebooks import INSPECTION, check_outputs, compare_outputs
from tools.verdict_noise import Measured, Noise, Verdicts, difference, under_noise


def run_all(artifacts: Path, *arguments: str, seal: bool = False) -> subprocess.CompletedProcess[str]:
    """`./run_all.sh` with the tests' interpreter, without a terminal."""
    command = [str(ROOT / "run_all.sh"), "--profile", "smoke", "--artifacts", str(artifacts), *arguments]
    environment = {**os.environ, "CRANE_PYTHON": sys.executable} | ({"TMPDIR": str(artifacts)} if seal else {})
    if seal:
        command = sealed(artifacts, *command)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    done = run_all(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def run(artifacts) -> Path:
    return artifacts / "smoke"


def test_every_section_is_executed_and_needs_those_that_made_the_stages_it_reads(run):
    """Checks the needs of sections.yaml; a section that lacks one would wait for a stage, or make it itself."""
    makers = {path.parent.name: json.loads(path.read_text())["section"] for path in run.glob("stages/*/stage.json")}
    stages = {name: section.number for section in all_sections() for name in section.declared.stages}
    assert {name: stages.get(name) for name in makers} == makers  # for the time that is told
    for section in all_sections():
        book = json.loads((run / "notebooks" / f"{section.name}.ipynb").read_text(encoding="utf-8"))
        outputs = [output for cell in book["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
        assert outputs or section.number == "09"
        assert not [output for output in outputs if output["output_type"] == "error"]
        log = (run / "logs" / f"{section.name}.log").read_text(encoding="utf-8")
        read = set(re.findall(r"^(\w+): (?:made|reused)", log, re.MULTILINE))
        assert read or section.number == "08"
        assert {makers[name] for name in read} <= {section.number, *section.after}
        assert "another section is making it" not in log


def test_every_table_is_written_three_times_and_every_figure_twice_and_hashed(run):
    tables = list((run / "tables").glob("*.csv"))
    figures = list((run / "figures").glob("*.png"))
    assert len(tables) >= 12
    assert len(figures) >= 10
    for path in tables:
        assert all(path.with_suffix(ending).stat().st_size > 0 for ending in (".md", ".tex"))
        assert len(pd.read_csv(path)) > 0
    for path in figures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["packages"]["torch"]
    assert {record["status"] for record in manifest["sections"]} == {"done"}
    for path in (run / "report.md", *(run / "tables").iterdir(), *(run / "figures").iterdir()):
        assert manifest["outputs"][str(path.relative_to(run))] == sha256(path)


def test_rows_are_complete_and_all_masks_evaluated_on_the_same_documents_and_items(run):
    for name in ("perplexity_base", "nlu_base", "perplexity_chat", "nlu_chat"):
        rows = pd.read_csv(run / "stages" / name / "rows.csv", keep_default_na=False)
        assert list(rows.columns) == list(COLUMNS)
        per_mask = rows.groupby(["selected_on", "method", "budget", "masked_language", "random_seed", "metric"])
        assert (per_mask["evaluation_language"].nunique() == 3).all()
        assert (per_mask.size() == 3).all()
    documents = pd.read_parquet(run / "stages" / "perplexity_base" / "documents.parquet")
    tokens = documents.groupby(["evaluation_language", "document"])["tokens"].nunique()
    assert (tokens == 1).all()
    items = pd.read_parquet(run / "stages" / "nlu_base" / "items.parquet")
    counts = items.groupby(["language", "method", "budget", "masked_language", "random_seed"]).size()
    assert counts.groupby("language").nunique().eq(1).all()


def test_numbers_and_verdicts_are_those_of_the_reference_run(run):
    finding = verify(run, against=str(REFERENCES / "smoke.json"))
    assert finding.problems == []
    assert [str(one) for one in finding.comparison.differences] == []
    assert finding.comparison.numbers > 1000
    verdicts = finding.reference.verdicts
    assert {name.partition(" ")[0] for name in verdicts} == {"C1", "C1b", "C2", "C3", "C4", "C5"}
    assert "NOT RUN" not in verdicts.values()


def test_verdicts_do_not_depend_on_the_rounding_of_float32(run):
    measured = Measured(run)
    none = difference(measured, measured)
    assert (none.nll, none.margin, set(none.scores.values()), none.units) == (0, 0, {0.0}, 0)
    verdicts = Verdicts(measured)  # without noise they are those of the run
    found = under_noise(verdicts, Noise(1e-6, 1e-5, dict.fromkeys(none.scores, 1e-6)), draws=3)
    assert (found["changed"], found["which"]) == (0, "none")
    large = under_noise(verdicts, Noise(0.5, 3.0, dict.fromkeys(none.scores, 1.0)), draws=1)
    assert min(large["changed"], large["answers turned, most"], large["units changed, most"]) > 0


def test_the_report_is_small_opens_at_once_and_fits_on_paper(run):
    report = run / "report.html"
    assert report.stat().st_size < 5_000_000
    program = chromium()
    from playwright.sync_api import sync_playwright  # there, where there is a Chromium for it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        page = browser.new_page()
        loaded = []
        for _ in range(3):  # the machine may be at work on something else
            page.goto(report.as_uri())
            loaded.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        with on_paper(browser, report.as_uri()) as paper:
            assert wider_than_paper(paper) == []
        browser.close()
    assert 0 < min(loaded) < 1000


def test_a_second_start_reuses_what_is_there_and_makes_the_rest(artifacts, run):
    before = sha256(run / "tables" / "02_overlaps.csv")
    (run / "tables" / "02_overlaps.csv").unlink()
    done = run_all(artifacts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("reused, nothing changed") == len(all_sections()) - 1
    assert sha256(run / "tables" / "02_overlaps.csv") == before


def test_a_second_run_from_nothing_has_the_bytes_of_the_first(artifacts, tmp_path):
    """The second one is in another folder, and where that can be had with a read-only root and without a network."""
    done = run_all(tmp_path, seal=can_seal(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert len(found) > 300
    assert differing(found, results(artifacts)) == []


def test_a_run_that_is_killed_has_the_bytes_of_one_that_is_not(artifacts, tmp_path, monkeypatch):
    """One section with the stages that it needs; `python -m tests.faults.kills` does so with the whole study."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killer = Killer(study("smoke", "--only", "01"), 3, random.Random(0))
    killer.survive(artifacts)
    assert killer.done.total() == 3
    assert killer.files > 50


def test_every_output_is_the_one_that_the_repository_keeps(run):
    """Compares what the sections just gave; nbval executes the claims again, and the inspection, which no run does."""
    sections = [section.path for section in all_sections()]
    differing = compare_outputs(run, sections)
    differing |= check_outputs(run, [*(path for path in sections if path.name.startswith("09_")), INSPECTION])
    assert not differing, "\n".join(f"{name} differs:\n{text[-4000:]}" for name, text in differing.items())
