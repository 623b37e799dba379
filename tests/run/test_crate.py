"""Finished runs as RO-Crates: all files with their hashes, verdicts, software and the process, and nothing private."""

import getpass
import json
import platform

import pytest
import yaml
from rocrate.rocrate import ROCrate

from crane_lib.errors import CraneError
from crane_lib.files import sha256, write_json, write_text
from crane_run.crate import crate_of, metadata, write_crate
from crane_run.manifest import NAME, read_manifest
from crane_run.references import NO_REFERENCE
from crane_run.verify import verify
from crane_study import ROOT
from tests.run.small_run import make_run


@pytest.fixture
def run(tmp_path):
    def also(folder):
        write_text(folder / "figures" / "03_langspec.png", "no picture")
        write_json(folder / "captions.json", {"figures/03_langspec": "LangSpec-F1 of every mask."})

    return make_run(tmp_path / "artifacts" / "mini", also=also)


def test_a_crate_holds_the_whole_run_and_can_be_read_back(run, tmp_path):
    count = write_crate(run, tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    manifest, citation = read_manifest(run), yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    files = {entity.id: entity for entity in crate.data_entities if entity.type == "File"}
    assert set(files) == {f"results/mini/{name}" for name in (*manifest.outputs, NAME)}
    assert count == len(files)
    for name, entity in files.items():
        path = tmp_path / "crate" / name
        assert entity["sha256"] == sha256(path)
        assert int(entity["contentSize"]) == path.stat().st_size
    picture = files["results/mini/figures/03_langspec.png"]
    assert picture["description"] == "Figure 03_langspec: LangSpec-F1 of every mask."
    assert picture["encodingFormat"] == "image/png"
    assert verify(tmp_path / "crate" / "results" / "mini", against=NO_REFERENCE).holds
    assert crate.name == citation["title"]
    assert crate.license.id == "https://spdx.org/licenses/MIT"
    assert [author["name"] for author in crate.root_dataset["author"]] == [one["name"] for one in citation["authors"]]
    paper = crate.root_dataset["citation"]
    assert paper["name"] == citation["preferred-citation"]["title"]
    assert [one["name"] for one in paper["author"]] == ["Yifan Le", "Yunliang Li"]


def test_the_process_and_the_verdicts_are_described(run):
    crate = crate_of({"results/mini": run})
    manifest, action = read_manifest(run), crate.dereference("#run-mini")
    assert action["description"] == "./run_all.sh --profile mini"
    assert action["endTime"] == manifest.written_at
    assert "startTime" not in action.properties()  # the sections of this run did not say when they began
    program = action["instrument"]
    assert manifest.commit is None or manifest.commit in program["softwareVersion"]
    assert {one["name"]: one["softwareVersion"] for one in program["softwareRequirements"]} == {
        "python": manifest.python,
        **{name: version for name, version in manifest.packages.items() if version},
    }
    (results,) = action["result"]
    (verdict,) = results["variableMeasured"]
    assert (verdict["name"], verdict["value"]) == ("C3 / contrast / 0.1 / accuracy", "REPRODUCED")
    text = metadata(crate).decode()
    assert json.loads(text)["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    words = {word.strip('",.') for word in text.split()}
    assert platform.node() not in words
    assert not any(f"/home/{getpass.getuser()}" in word or str(run.parent) in word for word in words)


def test_a_changed_or_unfinished_run_and_a_folder_that_is_there_are_refused(run, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(CraneError, match="there: is there already; name a new folder"):
        write_crate(run, tmp_path / "there")
    part = make_run(tmp_path / "part", sections=["00"])
    with pytest.raises(CraneError, match="is not finished: 11 sections were never run"):
        write_crate(part, tmp_path / "crate")
    write_text(run / "report.md", "other")
    with pytest.raises(CraneError, match=r"report.md: was changed after the run.*; crane verify says more"):
        write_crate(run, tmp_path / "crate")
    assert not (tmp_path / "crate").exists()
