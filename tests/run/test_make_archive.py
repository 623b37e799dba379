"""The archive for a repository of artifacts: what is in it, that it is the same twice, and what it refuses."""

import functools
import importlib.util
import json
import shutil
import subprocess
import tarfile

import pytest
import typer
import yaml
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from crane_lib.errors import CraneError
from crane_run import verify as verifying
from crane_study import ROOT
from tests.run.small_run import make_run
from tools.licences import locked
from tools.sbom import sbom


@pytest.fixture
def tool(git, tmp_path, monkeypatch):
    """tools/make_archive.py at work on a small repository."""
    clone = tmp_path / "clone"
    (clone / "crane_lib").mkdir(parents=True)
    for name in ("CITATION.cff", ".zenodo.json", ".gitattributes", ".git_archival.txt", ".gitignore"):
        (clone / name).write_bytes((ROOT / name).read_bytes())
    (clone / "crane_lib" / "code.py").write_text("x = 1\n")
    (clone / "requirements").mkdir()
    (clone / "requirements" / "base.lock").write_text(f"tidy==1.0 \\\n    --hash=sha256:{'a' * 64}\n")
    (clone / "pyproject.toml").write_text('[project]\nname = "small"\nversion = "1.0"\n')
    (clone / "run_all.sh").write_text("#!/bin/sh\n")
    (clone / "run_all.sh").chmod(0o755)
    git(clone)
    spec = importlib.util.spec_from_file_location("make_archive", ROOT / "tools" / "make_archive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", clone)
    monkeypatch.setattr(module, "sbom", functools.cache(module.sbom))  # seconds, and the same for all archives of it
    return module


def call(tool, *arguments):
    """Call the tool as the command line does; its exit status and what it says."""
    app = typer.Typer()
    app.command()(tool.main)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def content(path):
    with tarfile.open(path) as archive:
        files = [member for member in archive if member.isfile()]
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in files}


def test_the_archive_holds_source_and_results_and_is_the_same_twice(tool, tmp_path):
    run = make_run(tmp_path / "artifacts" / "mini")
    first, second = tmp_path / "crane.tar.gz", tmp_path / "again" / "crane.tar.gz"
    status, said = call(tool, first, "--run", run)
    assert (status, "read back and checked" in said) == (0, True)
    assert call(tool, second, "--run", run)[0] == 0
    assert first.read_bytes() == second.read_bytes()
    files = content(first)
    assert {"SHA256SUMS", "ARCHIVE-README.md", "CITATION.cff", ".zenodo.json", "source/CITATION.cff"} <= set(files)
    results = {"results/mini/manifest.json", "results/mini/tables/03_langspec.csv"}
    assert {"source/crane_lib/code.py", *results} <= set(files)
    (package,) = json.loads(files["sbom.cdx.json"])["components"]
    assert (package["name"], package["version"]) == ("tidy", "1.0")
    assert "a" * 64 in str(package["externalReferences"])
    assert not any("/stages/" in name for name in files)
    head = tool.git("rev-parse", "HEAD").decode()
    assert f"commit: {head}" in files["source/.git_archival.txt"].decode()
    assert head.strip() in files["ARCHIVE-README.md"].decode()
    with tarfile.open(first) as archive:
        modes = {member.name: member.mode for member in archive}
        assert {(member.uid, member.uname) for member in archive} == {(0, "root")}
        archive.extractall(tmp_path / "out", filter="data")
    assert modes["crane/source/run_all.sh"] == 0o755
    assert modes["crane/source/CITATION.cff"] == 0o644
    crate = ROCrate(tmp_path / "out" / "crane")
    named = {entity.id for entity in crate.data_entities if entity.type == "File"}
    assert named == {name for name in files if name.startswith("results/")}
    assert crate.dereference("#run-mini")["description"] == "./run_all.sh --profile mini"
    assert verifying.verify(tmp_path / "out" / "crane" / "results" / "mini", against=verifying.NO_REFERENCE).holds
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "out" / "crane", check=True)
    tool.make_archive(second, [run], with_stages=True)
    assert "results/mini/stages/base_model/model/model.safetensors" in content(second)


def test_changes_that_are_not_committed_and_changed_or_unfinished_runs_are_refused(tool, tmp_path):
    path, run = tmp_path / "crane.tar.gz", make_run(tmp_path / "mini")
    (run / "report.md").write_text("other")
    with pytest.raises(CraneError, match=r"report.md: was changed after the run.*; crane verify says more"):
        tool.make_archive(path, [run])
    part = make_run(tmp_path / "part", sections=["00"])
    expected = r"part: is not finished: 11 sections were never run \(01_relevance, .*--only 01,"
    with pytest.raises(CraneError, match=expected):
        tool.make_archive(path, [part])
    (tool.ROOT / "crane_lib" / "code.py").write_text("x = 2\n")
    status, said = call(tool, path)
    assert (status, "has changes that are not committed; commit them" in said) == (2, True)
    assert not path.exists()
    assert call(tool, path, "--allow-dirty")[0] == 0
    files = content(path)
    assert files["source/crane_lib/code.py"] == b"x = 1\n"
    assert "they are not in here" in files["ARCHIVE-README.md"].decode()


def test_the_metadata_for_zenodo_is_that_of_the_citation_file():
    told = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (told["title"], told["version"]) == (citation["title"], citation["version"])
    assert told["license"] == citation["license"].lower()
    assert [creator["name"] for creator in told["creators"]] == [author["name"] for author in citation["authors"]]
    assert citation["preferred-citation"]["title"] in told["description"]
    (paper,) = citation["preferred-citation"]["identifiers"]
    assert [item["identifier"] for item in told["related_identifiers"]] == [paper["value"]]


def test_the_bill_of_materials_has_every_locked_package_with_its_hashes(tmp_path):
    with pytest.raises(CraneError, match=r"has no requirements/\*\.lock"):
        sbom(tmp_path)
    (tmp_path / "requirements").mkdir()
    for name in ("installer", "torch-cuda"):  # base.lock takes the validator half a minute
        shutil.copy(ROOT / "requirements" / f"{name}.lock", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    found = json.loads(sbom(tmp_path))
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["name"] == "crane-lib"
    assert {component["name"] for component in found["components"]} == set(locked("installer", "torch-cuda"))
    for component in found["components"]:
        assert component["version"]
        assert all(len(one["content"]) == 64 for one in component["externalReferences"][0]["hashes"])
