import json
import shutil

import pytest

from crane_lib.errors import CraneError
from crane_run.inspect import open_run
from crane_study.fingerprints import sealed


def test_a_run_is_found_by_file_by_folder_and_by_what_the_lab_was_started_with(study_root, run, monkeypatch):
    artifacts = study_root / "artifacts"
    assert open_run("small", artifacts=artifacts).folder == run.folder  # no such profile in configs/
    monkeypatch.setenv("CRANE_PROFILE", str(study_root / "small.yaml"))
    monkeypatch.setenv("CRANE_ARTIFACTS", str(artifacts))
    assert open_run().folder == run.folder
    assert run.languages == ["en", "vi", "zh"]
    assert run.models == ["base"]


def test_looking_writes_nothing(study_root, run):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    again = open_run(str(study_root / "small.yaml"), artifacts=study_root / "artifacts")
    again.statistics("base")
    again.sets("base")
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_what_was_never_run_is_said_with_the_command_that_runs_it(run, tmp_path):
    with pytest.raises(CraneError) as error:
        open_run("mini", artifacts=tmp_path)
    expected = f"{tmp_path / 'mini'}: nothing has been run there; start ./run_all.sh --profile mini first"
    assert str(error.value) == expected
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CraneError, match="unknown profile 'minni'; did you mean 'mini'"):
        open_run("minni", artifacts=tmp_path)
    with pytest.raises(CraneError, match="model 'chat': this run has base"):
        run.model("chat")


def test_stages_that_are_missing_or_of_another_run(study_root, tmp_path):
    shutil.copytree(study_root / "artifacts" / "small", tmp_path / "small")
    path = tmp_path / "small" / "stages" / "relevance_base" / "stage.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | {"key": "0" * 16})))
    opened = open_run("small", artifacts=tmp_path)
    assert opened.statistics("base").keys() == {"en", "vi", "zh"}
    with pytest.raises(CraneError, match="selection_base: was made from an earlier relevance_base"):
        opened.sets("base")
    shutil.rmtree(tmp_path / "small" / "stages" / "selection_base")
    with pytest.raises(CraneError, match=r"no finished selection_base \(section 02 makes it\); start \./run_all\.sh"):
        opened.sets("base")


def test_samples_are_of_the_split_and_always_the_same(run):
    texts = run.sample("relevance", "vi", count=5)
    assert len(texts) == 5
    assert texts.equals(run.sample("relevance", "vi", count=5))
    assert all(text.startswith("Ở thị trấn") for text in texts)
    assert set(texts).isdisjoint(run.sample("perplexity", "vi", count=99))
    assert len(run.sample("relevance", "vi", count=99)) == 12
    with pytest.raises(CraneError, match="no relevance texts in 'fr'"):
        run.sample("relevance", "fr", count=5)
