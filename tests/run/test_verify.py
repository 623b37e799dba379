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
from crane_run.verify import Reference, ReferenceTable, compare, read_reference, verify
from crane_study.paper.tolerances import Reproduction
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


def edit(path, change):
    """Apply a change to the object in a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_finished_run_is_ok(run):
    finding = verify(run)
    assert finding.holds
    assert finding.files > 9
    said = crane("verify", run)
    assert said.exit_code == 0, said.output
    assert "mini has no reference" in said.output
    assert said.output.rstrip().endswith(f"{run}: OK")


def change_a_byte(run):
    path = run / "stages" / "base_model" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def add_files(run):
    (run / "tables" / "99_new.csv").write_text("a\n1\n")
    (run / "stages" / "other").mkdir()
    (run / "stages" / "other" / "stage.json").write_text("{}")
    (run / ".lock").touch()
    (run / "logs").mkdir()
    (run / "logs" / "00.log").write_text("output of the cells")


def fail_a_section(run):
    def change(manifest):
        (record,) = (item for item in manifest["sections"] if item["section"] == "03_perplexity")
        record |= {"status": "failed", "error": "no such set"}

    edit(run / "manifest.json", change)


def spoil_the_manifest(run):
    def change(manifest):
        del manifest["locks"]
        manifest["outputs"]["report.md"] = "short"

    edit(run / "manifest.json", change)


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (change_a_byte, ["stages/base_model/model/model.safetensors: was changed after the run ("]),
        (lambda run: (run / "tables" / "03_langspec.csv").unlink(), ["tables/03_langspec.csv: is missing"]),
        (add_files, ["tables/99_new.csv: is not in the manifest", "stages/other/stage.json: is not in the manifest"]),
        (
            lambda run: (run / "stages" / "corpus" / "stage.json").write_text('{"schema": "crane.stage/1"}'),
            [
                "stages/corpus/stage.json: is no complete record of a stage",
                "stages/corpus/stage.json: was changed after the run",
            ],
        ),
        (fail_a_section, ["section 03_perplexity: no such set"]),
        (spoil_the_manifest, [".json: locks: Field required (and 1 more); nothing else was checked"]),
        (lambda run: (run / "manifest.json").write_text("{"), ["manifest.json: is not JSON"]),
    ],
    ids=["byte", "missing", "added", "record", "failed", "part", "cut"],
)
def test_what_is_wrong_with_the_files_is_named(run, damage, problems):
    damage(run)
    found = verify(run).problems
    assert len(found) == len(problems)
    assert all(expected in one for one, expected in zip(found, problems, strict=True)), found
    said = crane("verify", run)
    assert said.exit_code == 1
    assert f"PROBLEM {found[0]}" in said.output


def test_without_stages_the_rest_is_checked(run):
    shutil.rmtree(run / "stages")
    finding = verify(run)
    assert finding.holds
    assert "2 stages not checked" in finding.notes[0]


def test_a_stage_made_of_something_else(run):
    edit(run / "manifest.json", lambda manifest: manifest["stages"][0].update(inputs={"corpus": "0" * 16}))
    assert "stages/base_model: was made from another corpus than is here" in verify(run).notes[0]


def test_an_older_manifest_or_none_is_one_line(run):
    (run / "manifest.json").write_text('{"schema": "crane.manifest/1"}')
    with pytest.raises(CraneError, match=r"has schema crane.manifest/1, this version checks crane.manifest/2; run"):
        verify(run)
    (run / "manifest.json").unlink()
    with pytest.raises(CraneError, match=r"has no manifest.json; give the folder of a finished run"):
        verify(run)


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
    edit(other / "manifest.json", lambda manifest: manifest["sections"].pop(0))
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
    told = {"description": "other words", "expected_seconds": {"00": 1.0}, "calibration_seconds": 1.0, "needs": {}}
    assert set(told) == set(TOLD)

    def change(manifest):
        manifest["profile"]["selection"]["budget"] = 0.2
        manifest["profile"] |= {**told, "device": "cuda"}

    edit(other / "manifest.json", change)
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


# Comparison of single numbers, with the intervals that rows have of their own.

RULES = {
    "verdicts_as_information": [],
    "identity": {"*": ["method"]},
    "widening": 3,
    "rules": [{"why": "w", "columns": ["share", "low", "high"], "interval": True, "absolute": 0.01}],
}


def table(**columns):
    return ReferenceTable(key=["method"], columns=list(columns), rows={"contrast": list(columns.values())})


def of(one):
    """A reference with one table."""
    return Reference(profile={}, made_with={}, verdicts={}, tables={"tables/10_t.csv": one}, sha256={})


def differing(ours, theirs):
    """Columns that differ, and the comparison."""
    found = compare(of(theirs), of(ours), lacking={}, rules=Reproduction.model_validate(RULES))
    return [one.column for one in found.differences], found


@pytest.mark.parametrize(
    ("column", "width"),
    [
        ("share", 0.2),
        ("share_low", 0.2),
        ("share_high", 0.2),
        ("own_drop", 0.1),
        ("own_high", 0.1),
        ("mean", 0.4),
        ("low", 0.4),
        ("high", 0.4),
    ],
)
def test_an_interval_belongs_to_its_column(column, width):
    names = {"share": 0.5, "share_low": 0.3, "share_high": 0.7, "own_drop": 0.2, "own_low": 0.1, "own_high": 0.3}
    one = table(**names, mean=0.5, low=0.1, high=0.9)
    assert one.half_width("contrast", column) == pytest.approx(width)


def test_without_an_interval_there_is_no_width():
    assert table(share=0.5, mean_low=0.1, mean_high=0.2).half_width("contrast", "share") == 0
    assert table(share=0.5, low=None, high=0.2).half_width("contrast", "share") == 0


def test_a_value_may_lie_within_the_widened_interval():
    reference = table(share=0.5, low=0.4, high=0.6)  # three times .1, and .01
    assert differing(table(share=0.8, low=0.7, high=0.9), reference)[0] == []
    assert sorted(differing(table(share=0.82, low=0.7, high=0.92), reference)[0]) == ["high", "share"]
    narrow = table(share=0.5, low=0.49, high=0.51)
    columns, found = differing(table(share=0.55, low=0.54, high=0.56), narrow)
    assert sorted(columns) == ["high", "low", "share"]
    assert found.differences[0].tolerance == pytest.approx(0.04)


def test_power_counts_what_a_0_would_have_failed():
    theirs = table(share=0.2, low=0.1, high=0.3)  # the tolerance is .31
    assert differing(theirs, theirs)[1].could_fail == 0
    theirs = table(share=0.5, low=0.45, high=0.0)  # an interval that ends in 0 is as wide as it looks
    assert (differing(theirs, theirs)[1].could_fail, differing(theirs, theirs)[1].zeros) == (0, 1)
    theirs = table(share=0.5, low=0.45, high=0.55)
    assert differing(theirs, theirs)[1].could_fail == 3


def test_a_text_needs_no_rule_and_is_told_where_it_differs():
    theirs = table(share=0.5, worst="zh", note=None)
    columns, found = differing(table(share=0.5, worst="vi", note=None), theirs)
    assert (columns, [one.column for one in found.information]) == ([], ["worst"])
    assert found.numbers == 1
