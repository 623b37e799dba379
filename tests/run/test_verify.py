"""Checking finished runs against their manifests and against references."""

import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from crane_lib.errors import CraneError
from crane_run import verify as module
from crane_run.cli import app
from crane_run.manifest import read_manifest
from crane_run.sections import all_sections
from crane_run.verify import read_reference, verify
from crane_study.profile import TOLD
from tests.run.small_run import make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "mini")


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "mini")


@pytest.fixture(autouse=True)
def references(tmp_path, monkeypatch):
    """No reference is committed but what a test puts there."""
    folder = tmp_path / "reference"
    folder.mkdir()
    monkeypatch.setattr(module, "REFERENCES", folder)
    return folder


def crane(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def set_value(path, column, value, *, row=0):
    """Another value in a table, and the manifest made to know of it."""
    frame = pd.read_csv(path, keep_default_na=False)
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    frame.to_csv(path, index=False)


def test_a_finished_run_is_ok(run):
    finding = verify(run)
    assert finding.holds
    assert finding.files > 9
    said = crane("verify", run)
    assert said.exit_code == 0, said.output
    assert "mini has no reference" in said.output
    assert said.output.rstrip().endswith(f"{run}: OK")


def test_a_changed_byte(run):
    path = run / "stages" / "base_model" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert verify(run).problems == [
        f"stages/base_model/model/model.safetensors: was changed after the run ({path.stat().st_size} bytes now)"
    ]
    said = crane("verify", run)
    assert said.exit_code == 1
    assert "PROBLEM stages/base_model/model/model.safetensors: was changed" in said.output


def test_a_missing_file(run):
    (run / "tables" / "03_langspec.csv").unlink()
    assert verify(run).problems == ["tables/03_langspec.csv: is missing"]


def test_an_extra_file(run):
    (run / "tables" / "99_new.csv").write_text("a\n1\n")
    (run / "stages" / "other").mkdir()
    (run / "stages" / "other" / "stage.json").write_text("{}")
    (run / ".lock").touch()
    (run / "logs").mkdir()
    (run / "logs" / "00.log").write_text("said on the way")
    assert verify(run).problems == [
        "tables/99_new.csv: is not in the manifest",
        "stages/other/stage.json: is not in the manifest",
    ]


def test_an_incomplete_record_of_a_stage(run):
    (run / "stages" / "corpus" / "stage.json").write_text('{"schema": "crane.stage/1"}')
    first, second = verify(run).problems
    assert first == "stages/corpus/stage.json: is no complete record of a stage"
    assert second.startswith("stages/corpus/stage.json: was changed")


def test_without_stages_the_rest_is_checked(run):
    shutil.rmtree(run / "stages")
    finding = verify(run)
    assert finding.holds
    assert "2 stages not checked" in finding.notes[0]


def test_a_section_that_failed(run):
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    (record,) = (item for item in manifest["sections"] if item["section"] == "03_perplexity")
    record |= {"status": "failed", "error": "no such set"}
    path.write_text(json.dumps(manifest))
    assert verify(run).problems == ["section 03_perplexity: no such set"]


def test_a_stage_made_of_something_else(run):
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stages"][0]["inputs"] = {"corpus": "0" * 16}
    path.write_text(json.dumps(manifest))
    assert "stages/base_model: was made from another corpus than lies here" in verify(run).notes[0]


def test_a_truncated_manifest(run):
    path = run / "manifest.json"
    path.write_text(path.read_text()[:2000])
    said = crane("verify", run)
    assert said.exit_code == 1
    assert "manifest.json: is not JSON" in said.output


def test_a_manifest_without_a_part(run):
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["locks"]
    manifest["outputs"]["report.md"] = "short"
    path.write_text(json.dumps(manifest))
    (problem,) = verify(run).problems
    assert "locks: Field required (and 1 more)" in problem


def test_an_older_manifest_is_one_line(run):
    (run / "manifest.json").write_text('{"schema": "crane.manifest/1"}')
    with pytest.raises(CraneError, match=r"has schema crane.manifest/1, this version checks crane.manifest/2; run"):
        verify(run)


def test_no_run(tmp_path):
    with pytest.raises(CraneError, match=r"has no manifest.json; give the folder of a finished run"):
        verify(tmp_path)


def test_numbers_within_the_tolerance(run, tmp_path, references):
    assert crane("reference", run, references / "mini.json").exit_code == 0
    other = make_run(tmp_path / "other", shift=0.05)
    found = verify(other).comparison
    assert found.differences == []
    assert (found.numbers, found.tables, found.verdicts, found.equal_verdicts) == (43, 4, 1, 1)
    assert [one.column for one in found.information] == ["worst_other"]
    assert 0 < found.equal < found.numbers
    said = crane("verify", other)
    assert said.exit_code == 0
    assert "1 differences that do not count: tables/03_langspec.csv, lape / token_probability, worst_other: zh" in (
        said.output
    )
    exact = crane("verify", other, "--exact")
    assert exact.exit_code == 1
    assert "tables/03_langspec.csv, contrast / token_probability, mean: 0.75, reference 0.7" in exact.output


def test_a_number_beyond_its_tolerance(run, tmp_path):
    other = make_run(tmp_path / "other", shift=0.25)
    found = verify(other, against=str(run)).comparison
    places = {(one.table, one.row, one.column): one for one in found.differences}
    one = places["tables/03_langspec.csv", "lape / token_probability", "mean"]
    assert (one.value, one.reference, one.tolerance) == (0.35, 0.1, pytest.approx(0.05 + 0.25 * 0.1))
    assert str(one) == (
        "tables/03_langspec.csv, lape / token_probability, mean: 0.35, reference 0.1 (off by 0.25, tolerance 0.075)"
    )
    # Both draws of the random set are one row; NLL may be off by more.
    assert ("results.csv", "mini / base / base / random / 0.1 / en / en / t / accuracy", "value") in places
    assert not any("/ nll" in row for _table, row, _column in places)
    assert crane("verify", other, "--against", run).exit_code == 1


def test_what_is_made_before_training_is_equal(run, tmp_path):
    other = make_run(tmp_path / "other", documents=13)
    found = verify(other, against=str(run)).comparison
    assert [str(one) for one in found.differences] == [
        f"tables/00_documents.csv, {language} / train, documents: 13, reference 12 (off by 1, tolerance 0.00012)"
        for language in ("en", "zh", "vi")
    ]


def test_another_verdict(run, tmp_path):
    other = make_run(tmp_path / "other", verdict="NOT REPRODUCED")
    found = verify(other, against=str(run)).comparison
    assert [str(one) for one in found.differences] == [
        "claims.json, C3 / contrast / 0.1 / accuracy, verdict: NOT REPRODUCED, reference REPRODUCED"
    ]


def test_verdicts_of_smoke_are_told(tmp_path):
    first = make_run(tmp_path / "first", profile="smoke")
    second = make_run(tmp_path / "second", profile="smoke", verdict="NOT REPRODUCED")
    finding = verify(second, against=str(first))
    assert finding.holds
    assert len(finding.comparison.information) == 1
    assert not verify(second, against=str(first), exact=True).holds


def test_missing_tables_rows_and_sections(run, tmp_path):
    other = make_run(tmp_path / "other")
    frame = pd.read_csv(other / "tables" / "03_langspec.csv")
    frame.iloc[:1].rename(columns={"mean": "area"}).to_csv(other / "tables" / "03_langspec.csv", index=False)
    (other / "results.csv").unlink()
    path = other / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sections"] = manifest["sections"][1:]
    path.write_text(json.dumps(manifest))
    (other / "tables" / "00_documents.csv").unlink()
    found = verify(other, against=str(run)).comparison
    assert {str(one) for one in found.differences} == {
        "section 00: was not run; the reference has its tables",
        "results.csv: is missing; the reference has it",
        "tables/03_langspec.csv, mean: the column is missing",
        "tables/03_langspec.csv, lape / token_probability: the row is missing",
    }
    assert "tables/03_langspec.csv, area: the column is new" in {str(one) for one in found.information}


def test_other_settings_are_named(run, tmp_path):
    other = make_run(tmp_path / "other")
    path = other / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["profile"]["selection"]["budget"] = 0.2
    told = {"description": "other words", "expected_seconds": {"00": 1.0}, "calibration_seconds": 1.0, "needs": {}}
    assert set(told) == set(TOLD)
    manifest["profile"] |= {**told, "device": "cuda"}
    path.write_text(json.dumps(manifest))
    (one,) = verify(other, against=str(run)).comparison.differences
    assert str(one) == "profile, selection.budget: is 0.2, the reference has 0.1"


def test_a_reference_of_another_profile(run, tmp_path):
    other = make_run(tmp_path / "smoke", profile="smoke")
    with pytest.raises(CraneError, match=r"is of profile 'smoke', the run is of 'mini'"):
        verify(run, against=str(other))
    with pytest.raises(CraneError, match=r"is not a reference \(expected schema 'crane.reference/1'\)"):
        verify(run, against=str(run / "claims.json"))
    with pytest.raises(CraneError, match=r"nothing.json: no such file"):
        verify(run, against=str(tmp_path / "nothing.json"))


def test_a_reference_is_small_and_comes_back_as_it_was(run, tmp_path):
    path = tmp_path / "kept.json"
    said = crane("reference", run, path)
    assert said.exit_code == 0
    assert "18 rows of 4 tables, 1 verdicts" in said.output
    assert path.stat().st_size < 10_000
    found = read_reference(path)
    assert found.made_with["processor"] == read_manifest(run).machine.processor
    assert found.verdicts == {"C3 / contrast / 0.1 / accuracy": "REPRODUCED"}
    table = found.tables["tables/03_langspec.csv"]
    assert table.key == ["method", "metric"]
    assert table.rows["contrast / token_probability"] == [0.7, "vi"]  # no p-value: it is not compared
    mean = found.tables["results.csv"].rows["mini / base / base / random / 0.1 / en / vi / t / nll"]
    assert dict(zip(found.tables["results.csv"].columns, mean, strict=True)) == {"value": 2.05, "n": 100, "draws": 2}
    assert (
        found.sha256["stages/corpus/documents.txt"]
        == read_manifest(run).stages[1].outputs["stages/corpus/documents.txt"]
    )
    assert verify(run, against=str(path), exact=True).holds


def test_no_reference_of_a_run_that_is_not_whole(run, tmp_path):
    (run / "report.md").unlink()
    said = crane("reference", run, tmp_path / "kept.json")
    assert "is no reference: report.md: is missing; run the study again" in str(said.exception)
    assert not (tmp_path / "kept.json").exists()


def test_a_run_of_some_sections_is_no_reference(tmp_path, references):
    part = make_run(tmp_path / "mini", sections=["00", "02"])
    finding = verify(part, against="none")
    assert finding.holds  # what is there is as the manifest says
    assert finding.absent == [item.name for item in all_sections() if item.number not in ("00", "02")]
    said = crane("verify", part, "--against", "none")
    assert said.exit_code == 0
    assert "note: 9 sections were never run (01_relevance, 03_perplexity, " in said.output
    refused = crane("reference", part, references / "mini.json")
    assert "is no reference: 9 sections were never run (01_relevance, 03_" in str(refused.exception)
    assert "./run_all.sh --profile mini --only 01,03,04,05,06,07,08,09,10 runs what is lacking" in str(
        refused.exception
    )
    assert not (references / "mini.json").exists()


def test_no_reference_of_a_tree_with_uncommitted_changes_unless_allowed(tmp_path, references):
    changed = make_run(tmp_path / "mini", dirty=True)
    refused = crane("reference", changed, references / "mini.json")
    assert "was made from a tree with uncommitted changes" in str(refused.exception)
    assert not (references / "mini.json").exists()
    assert crane("reference", changed, references / "mini.json", "--allow-dirty").exit_code == 0
    found = read_reference(references / "mini.json")
    assert (found.made_with["uncommitted_changes"], found.made_with["jobs"]) == (True, [1])


def test_the_power_of_a_comparison_is_told(tmp_path):
    low = make_run(tmp_path / "mini", shift=-0.1)  # LangSpec-F1 of .6, and of 0
    found = verify(low, against=str(low)).comparison
    assert (found.numbers, found.could_fail, found.zeros) == (43, 42, 1)
    said = crane("verify", low, "--against", low)
    told = "power: 42 of these numbers (98 %) would be out of tolerance if the run had reported 0 (1 are 0 in the"
    assert told in said.output


def test_a_number_that_no_rule_is_for_is_an_error(run):
    frame = pd.read_csv(run / "tables" / "03_langspec.csv").assign(surprise=0.5)
    frame.to_csv(run / "tables" / "03_langspec.csv", index=False)
    with pytest.raises(
        CraneError, match=r"tolerances.yaml: no rule .* is for tables/03_langspec.csv, column 'surprise'"
    ):
        verify(run, against=str(run))
