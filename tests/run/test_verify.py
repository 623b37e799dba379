"""Checking finished runs against their manifests and against references."""

import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from crane_lib.errors import CraneError
from crane_lib.files import sha256
from crane_run import verify as module
from crane_run.cli import app
from crane_run.manifest import read_manifest
from crane_run.references import Reference, ReferenceTable, read_reference, write_reference
from crane_run.sections import all_sections
from crane_run.verify import compare, verify
from crane_study.fingerprints import sealed
from crane_study.frames import read_frame, write_frame
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


def edit(folder, change):
    """Apply a change to a run's manifest, as if it had been written so."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))


def compared(ours, theirs):
    """The comparison of one run's folder with another's, and its differences in words."""
    found = verify(ours, against=str(theirs)).comparison
    return found, [str(one) for one in found.differences]


def test_a_finished_run_is_ok_with_and_without_its_stages(run):
    finding = verify(run)
    assert finding.holds
    assert finding.files > 9
    said = crane("verify", run)
    assert said.exit_code == 0, said.output
    assert "mini has no reference" in said.output
    assert said.output.rstrip().endswith(f"{run}: OK")
    edit(run, lambda manifest: manifest["stages"][0].update(inputs={"corpus": "0" * 16}))
    assert "stages/base_model: was made from another corpus than is here" in verify(run).notes[0]
    shutil.rmtree(run / "stages")
    assert verify(run).holds
    assert "2 stages not checked" in verify(run).notes[0]


WEIGHTS, RECORD = "stages/base_model/model/model.safetensors", "stages/corpus/stage.json"


def move_files(run):
    (run / "tables" / "03_langspec.csv").unlink()
    (run / "tables" / "99_new.csv").write_text("a\n1\n")
    (run / "stages" / "other").mkdir()
    (run / "stages" / "other" / "stage.json").write_text("{}")
    (run / ".lock").touch()
    (run / "logs").mkdir()
    (run / "logs" / "00.log").write_text("output of the cells")


def spoil_the_manifest(run):
    edit(run, lambda manifest: (manifest.pop("locks"), manifest["outputs"].update({"report.md": "short"})))


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lambda run: (run / WEIGHTS).write_bytes(b"x"), [f"{WEIGHTS}: was changed after the run ("]),
        (
            move_files,
            [
                "tables/03_langspec.csv: is missing",
                "tables/99_new.csv: is not in the manifest",
                "stages/other/stage.json: is not in the manifest",
            ],
        ),
        (
            lambda run: (run / RECORD).write_text('{"schema": "crane.stage/1"}'),
            [f"{RECORD}: is no complete record of a stage", f"{RECORD}: was changed after the run"],
        ),
        (
            lambda run: edit(run, lambda made: made["sections"][3].update(status="failed", error="no such set")),
            ["section 03_perplexity: no such set"],
        ),
        (spoil_the_manifest, [".json: locks: Field required (and 1 more); nothing else was checked"]),
        (lambda run: (run / "manifest.json").write_text("{"), ["manifest.json: is not JSON"]),
    ],
    ids=["byte", "files", "record", "failed", "part", "cut"],
)
def test_what_is_wrong_with_the_files_is_named(run, damage, problems):
    damage(run)
    found = verify(run).problems
    assert len(found) == len(problems)
    assert all(expected in one for one, expected in zip(found, problems, strict=True)), found
    said = crane("verify", run)
    assert said.exit_code == 1
    assert f"PROBLEM {found[0]}" in said.output


def test_a_run_that_cannot_be_checked_is_one_line(run, tmp_path):
    name = "tables/03_new.csv"
    pd.DataFrame({"method": ["lape"], "surprise": 0.5}).to_csv(run / name, index=False)
    with pytest.raises(CraneError, match=r"is not as it was made: tables/03_new\.csv: is not in the manifest; run it"):
        verify(run, against=str(run))
    edit(run, lambda manifest: manifest["outputs"].update({name: sha256(run / name)}))
    with pytest.raises(CraneError, match=r"tolerances.yaml: no rule .* is for tables/03_new.csv, column 'surprise'"):
        verify(run, against=str(run))
    other = make_run(tmp_path / "smoke", profile="smoke")
    for against, expected in (
        (other, r"is of profile 'smoke', the run is of 'mini'"),
        (run / "claims.json", r"is not a reference \(schema: Input should be 'crane.reference/1'\)"),
        (tmp_path / "nothing.json", r"nothing.json: no such file"),
    ):
        with pytest.raises(CraneError, match=expected):
            verify(run, against=str(against))
    (run / "manifest.json").write_text('{"schema": "crane.manifest/1"}')
    with pytest.raises(CraneError, match=r"has schema crane.manifest/1, this version checks crane.manifest/2; run"):
        verify(run)
    (run / "manifest.json").unlink()
    with pytest.raises(CraneError, match=r"has no manifest.json; give the folder of a finished run"):
        verify(run)


def test_numbers_within_and_beyond_their_tolerances(run, tmp_path, references):
    path = references / "mini.json"
    said = crane("reference", run, path)
    assert said.exit_code == 0
    assert "18 rows of 4 tables, 1 verdicts" in said.output
    kept = read_reference(path)
    assert kept.made_with["processor"] == read_manifest(run).machine.processor
    assert (kept.made_with["uncommitted_changes"], kept.made_with["jobs"]) == (False, [1])
    assert kept.verdicts == {"C3 / contrast / 0.1 / accuracy": "REPRODUCED"}
    other = make_run(tmp_path / "other", shift=0.05)
    found = verify(other).comparison
    assert found.differences == []
    assert (found.numbers, found.tables, found.verdicts, found.equal_verdicts) == (43, 4, 1, 1)
    assert [one.column for one in found.information] == ["worst_other"]
    assert 0 < found.equal < found.numbers
    said = crane("verify", other)
    assert said.exit_code == 0
    told = "1 differences that do not count: tables/03_langspec.csv, lape / token_probability, worst_other: zh"
    assert told in said.output
    exact = crane("verify", other, "--exact")
    assert exact.exit_code == 1
    assert "tables/03_langspec.csv, contrast / token_probability, mean: 0.75, reference 0.7" in exact.output
    low = make_run(tmp_path / "low", shift=-0.1)  # LangSpec-F1 of .6, and of 0
    said = crane("verify", low, "--against", low)
    assert "models: the weights are those of the reference" in said.output
    told = "power: 44 of these numbers (98 %) would be out of tolerance if the run had reported 0 (1 are 0 in the"
    assert told in said.output
    write_frame(
        low / "tables" / "03_langspec.csv", read_frame(low / "tables" / "03_langspec.csv").assign(mean=[0.6, 0.002])
    )
    reduced = compared(low, make_run(tmp_path / "again", shift=-0.1))[0].differences
    assert [(one.column, one.reference) for one in reduced] == [("mean", 0)]
    assert "models: other weights than the reference's" in crane("verify", other, "--against", run).output
    other = make_run(tmp_path / "beyond", shift=0.25)
    places = {(one.table, one.row, one.column): one for one in compared(other, run)[0].differences}
    one = places["tables/03_langspec.csv", "lape / token_probability", "mean"]
    assert (one.value, one.reference, one.tolerance) == (0.35, 0.1, pytest.approx(0.05 + 0.25 * 0.1))
    assert str(one) == (
        "tables/03_langspec.csv, lape / token_probability, mean: 0.35, reference 0.1 (off by 0.25, tolerance 0.075)"
    )
    # Both draws of the random set are one row; NLL may be off by more.
    assert ("results.csv", "mini / base / base / random / 0.1 / en / en / t / accuracy", "value") in places
    assert not any("/ nll" in row for _table, row, _column in places)
    assert crane("verify", other, "--against", run).exit_code == 1


def test_documents_verdicts_and_settings_are_equal(run, tmp_path):
    assert compared(make_run(tmp_path / "a", documents=13), run)[1] == [  # made before training: only of rounding
        f"tables/00_documents.csv, {name} / train, documents: 13, reference 12 (off by 1, tolerance 0.00012)"
        for name in ("en", "zh", "vi")
    ]
    assert compared(make_run(tmp_path / "b", verdict="NOT REPRODUCED"), run)[1] == [
        "claims.json, C3 / contrast / 0.1 / accuracy, verdict: NOT REPRODUCED, reference REPRODUCED"
    ]
    words = {"REPRODUCED": 0.0, "NOT REPRODUCED": 0.01}  # and other weights
    first, second = (make_run(tmp_path / word, profile="smoke", verdict=word, shift=words[word]) for word in words)
    found, differing = compared(second, first)  # verdicts of a retrained smoke are told only
    assert (differing, [one.column for one in found.information]) == ([], ["worst_other", "verdict"])
    same = make_run(tmp_path / "same", profile="smoke", verdict="NOT REPRODUCED")
    assert [one.split(":")[0] for one in compared(same, first)[1]] == [
        "claims.json, C3 / contrast / 0.1 / accuracy, verdict"
    ]
    told = {"description": "other words", "expected_seconds": {"00": 1.0}, "calibration_seconds": 1.0, "needs": {}}
    assert set(told) == set(TOLD)
    other = make_run(tmp_path / "c")
    edit(other, lambda manifest: manifest["profile"]["selection"].update(budget=0.2))
    edit(other, lambda manifest: manifest["profile"].update(told, device="cuda"))
    assert compared(other, run)[1] == ["profile, selection.budget: is 0.2, the reference has 0.1"]


def test_a_text_that_was_found_counts_where_the_weights_are_equal(run, tmp_path):
    path = run / "tables" / "03_langspec.csv"
    other = make_run(tmp_path / "other")
    write_frame(path, read_frame(path).assign(worst_other=["vi", "zh"]))
    assert compared(run, other)[1] == [
        "tables/03_langspec.csv, lape / token_probability, worst_other: zh, reference vi"
    ]


def test_missing_tables_rows_and_sections(run, tmp_path):
    other = make_run(tmp_path / "other")
    frame = pd.read_csv(other / "tables" / "03_langspec.csv")
    frame.iloc[:1].rename(columns={"mean": "area"}).to_csv(other / "tables" / "03_langspec.csv", index=False)
    (other / "results.csv").unlink()
    edit(other, lambda manifest: manifest["sections"].pop(0))
    (other / "tables" / "00_documents.csv").unlink()
    found, differing = compared(other, run)
    assert set(differing) == {
        "section 00: was not run; the reference has its tables",
        "results.csv: is missing; the reference has it",
        "tables/03_langspec.csv, mean: the column is missing",
        "tables/03_langspec.csv, lape / token_probability: the row is missing",
    }
    assert "tables/03_langspec.csv, area: the column is new" in map(str, found.information)


def test_not_every_run_may_be_a_reference(run, tmp_path):
    path = tmp_path / "kept.json"
    (run / "report.md").unlink()
    refused = crane("reference", run, path)
    assert "is no reference: report.md: is missing; run the study again" in str(refused.exception)
    part = make_run(tmp_path / "part", sections=["00", "02"])
    finding = verify(part, against="none")
    assert finding.holds  # what is there is as the manifest says
    assert finding.absent == [item.name for item in all_sections() if item.number not in ("00", "02")]
    assert "note: 10 sections were never run (01_relevance, 03_p" in crane("verify", part, "--against", "none").output
    refused = str(crane("reference", part, path).exception)
    assert "is no reference: 10 sections were never run (01_relevance, 03_" in refused
    assert "./run_all.sh --profile mini --only 01,03,04,05,06,07,08,09,10,11 runs what is lacking" in refused
    changed = make_run(tmp_path / "changed", dirty=True)
    refused = crane("reference", changed, path)
    assert "was made from a tree with uncommitted changes" in str(refused.exception)
    assert not path.exists()
    assert crane("reference", changed, path, "--allow-dirty").exit_code == 0
    found = read_reference(path)
    assert (found.made_with["uncommitted_changes"], found.made_with["jobs"]) == (True, [1])


# Comparison of single numbers, with the intervals that rows have of their own.

RULES = {
    "verdicts_as_information": [],
    "identity": {"*": ["method"]},
    "widening": 3,
    "rounding": [{"why": "w", "columns": ["?*"], "absolute": 0.001}],
    "rules": [{"why": "w", "columns": ["share", "low", "high"], "interval": True, "absolute": 0.01}],
}


def table(**columns):
    return ReferenceTable(key=["method"], columns=list(columns), rows={"contrast": list(columns.values())})


def differing(ours, theirs):
    """Columns that differ between references with one table, and the comparison."""
    run, reference = (
        Reference(profile={}, made_with={}, verdicts={}, tables={"tables/10_t.csv": one}, sha256={})
        for one in (ours, theirs)
    )
    found = compare(reference, run, lacking={}, rules=Reproduction.model_validate(RULES))
    return [one.column for one in found.differences], found


def test_an_interval_belongs_to_its_column_and_a_value_may_lie_within_it_widened():
    names = {"share": 0.5, "share_low": 0.3, "share_high": 0.7, "own_drop": 0.2, "own_low": 0.1, "own_high": 0.3}
    one = table(**names, mean=0.5, low=0.1, high=0.9)
    widths = dict.fromkeys(("share", "share_low", "share_high"), 0.2) | {"own_drop": 0.1, "own_high": 0.1}
    widths |= dict.fromkeys(("mean", "low", "high"), 0.4)
    assert {column: one.half_width("contrast", column) for column in widths} == pytest.approx(widths)
    assert table(share=0.5, mean_low=0.1, mean_high=0.2).half_width("contrast", "share") == 0
    assert table(share=0.5, low=None, high=0.2).half_width("contrast", "share") == 0
    reference = table(share=0.5, low=0.4, high=0.6)  # three times .1, and .01
    assert differing(table(share=0.8, low=0.7, high=0.9), reference)[0] == []
    assert sorted(differing(table(share=0.82, low=0.7, high=0.92), reference)[0]) == ["high", "share"]
    narrow = table(share=0.5, low=0.49, high=0.51)
    columns, found = differing(table(share=0.55, low=0.54, high=0.56), narrow)
    assert sorted(columns) == ["high", "low", "share"]
    assert found.differences[0].tolerance == pytest.approx(0.04)


def test_an_infinite_number_is_kept_as_a_text(run, tmp_path):
    path = run / "tables" / "03_langspec.csv"
    write_frame(path, read_frame(path).assign(ratio=[float("inf"), 2.0]))
    reference = module.reference_of(run, read_manifest(run))
    write_reference(tmp_path / "reference.json", reference)
    kept = read_reference(tmp_path / "reference.json").tables["tables/03_langspec.csv"]
    at = kept.columns.index("ratio")
    assert [cells[at] for cells in kept.rows.values()] == ["inf", 2]


def test_power_counts_what_a_0_would_have_failed_and_a_text_needs_no_rule():
    for (low, share, high), power in (
        ((0.1, 0.2, 0.3), (0, 0)),  # the tolerance is .31
        ((0.45, 0.5, 0.0), (0, 1)),  # an interval that ends in 0 is as wide as it looks
        ((0.45, 0.5, 0.55), (3, 0)),
    ):
        theirs = table(share=share, low=low, high=high)
        _columns, found = differing(theirs, theirs)
        assert (found.could_fail, found.zeros) == power
    theirs = table(share=0.5, worst="zh", note=None)
    columns, found = differing(table(share=0.5, worst="vi", note=None), theirs)
    assert (columns, [one.column for one in found.information]) == ([], ["worst"])
    assert found.numbers == 1
