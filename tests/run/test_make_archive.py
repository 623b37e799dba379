"""The archive for a repository of artifacts: what is in it, that it is the same twice, and what it refuses."""

import importlib.util
import io
import json
import subprocess
import tarfile

import pytest

from crane_lib.errors import CraneError
from crane_run import verify as verifying
from crane_study import ROOT
from tests.run.small_run import make_run


@pytest.fixture
def module():
    """tools/make_archive.py, which is no package."""
    spec = importlib.util.spec_from_file_location("make_archive", ROOT / "tools" / "make_archive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool(git, module, tmp_path, monkeypatch):
    """The same at work on a small repository."""
    clone = tmp_path / "clone"
    (clone / "crane_lib").mkdir(parents=True)
    (clone / "CITATION.cff").write_bytes((ROOT / "CITATION.cff").read_bytes())
    (clone / ".gitattributes").write_bytes((ROOT / ".gitattributes").read_bytes())
    (clone / ".git_archival.txt").write_bytes((ROOT / ".git_archival.txt").read_bytes())
    (clone / "crane_lib" / "code.py").write_text("x = 1\n")
    (clone / "run_all.sh").write_text("#!/bin/sh\n")
    (clone / "run_all.sh").chmod(0o755)
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(clone), *command], check=True)
    monkeypatch.setattr(module, "ROOT", clone)
    return module


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "artifacts" / "mini")


def content(path):
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in archive}


def test_the_archive_holds_source_and_results_and_is_the_same_twice(tool, run, tmp_path, capsys):
    first, second = tmp_path / "crane.tar.gz", tmp_path / "again" / "crane.tar.gz"
    assert tool.main([str(first), "--run", str(run)]) == 0
    said = capsys.readouterr().out
    assert "read back and checked" in said
    assert tool.main([str(second), "--run", str(run)]) == 0
    assert first.read_bytes() == second.read_bytes()
    files = content(first)
    assert {
        "SHA256SUMS",
        "ARCHIVE-README.md",
        "CITATION.cff",
        ".zenodo.json",
        "source/crane_lib/code.py",
        "source/CITATION.cff",
        "results/mini/manifest.json",
        "results/mini/tables/03_langspec.csv",
    } <= set(files)
    assert not any("/stages/" in name for name in files)
    head = tool.git("rev-parse", "HEAD").decode()
    assert f"commit: {head}" in files["source/.git_archival.txt"].decode()
    assert head.strip() in files["ARCHIVE-README.md"].decode()
    with tarfile.open(first) as archive:
        modes = {member.name: member.mode for member in archive}
        assert {(member.uid, member.uname) for member in archive} == {(0, "")}
    assert modes["crane/source/run_all.sh"] == 0o755
    assert modes["crane/source/CITATION.cff"] == 0o644


def test_unpacked_results_are_verified_without_their_stages(tool, run, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "REFERENCES", tmp_path)
    tool.make_archive(tmp_path / "crane.tar.gz", [run])
    with tarfile.open(tmp_path / "crane.tar.gz") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    finding = verifying.verify(tmp_path / "out" / "crane" / "results" / "mini")
    assert finding.holds
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out" / "crane", capture_output=True)
    assert sums.returncode == 0


def test_stages_are_packed_where_asked_for(tool, run, tmp_path):
    tool.make_archive(tmp_path / "crane.tar.gz", [run], with_stages=True)
    assert "results/mini/stages/base_model/model/model.safetensors" in content(tmp_path / "crane.tar.gz")


def test_uncommitted_changes_are_refused_unless_allowed(tool, tmp_path, capsys):
    (tool.ROOT / "crane_lib" / "code.py").write_text("x = 2\n")
    assert tool.main([str(tmp_path / "crane.tar.gz")]) == 2
    assert "has changes that are not committed; commit them" in capsys.readouterr().err
    assert not (tmp_path / "crane.tar.gz").exists()
    assert tool.main([str(tmp_path / "crane.tar.gz"), "--allow-dirty"]) == 0
    files = content(tmp_path / "crane.tar.gz")
    assert files["source/crane_lib/code.py"] == b"x = 1\n"
    assert "they are not in here" in files["ARCHIVE-README.md"].decode()


def test_a_run_that_is_not_as_its_manifest_says_is_refused(tool, run, tmp_path):
    (run / "report.md").write_text("other")
    with pytest.raises(CraneError, match=r"report.md: was changed after the run.*; crane verify says more"):
        tool.make_archive(tmp_path / "crane.tar.gz", [run])


def test_a_run_of_some_sections_is_refused(tool, tmp_path):
    part = make_run(tmp_path / "part", sections=["00"])
    with pytest.raises(
        CraneError, match=r"part: is not finished: 10 sections were never run \(01_relevance, .*--only 01,"
    ):
        tool.make_archive(tmp_path / "crane.tar.gz", [part])
    assert not (tmp_path / "crane.tar.gz").exists()


def test_a_damaged_archive_is_noticed(module, tmp_path):
    path = tmp_path / "crane.tar.gz"
    module.write_archive(path, {"a": (b"one", False), "b": (b"two", True)}, top="crane", timestamp=1)
    assert module.check_archive(path) == 2
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(b"ONE" if member.name == "crane/a" else data))
    with pytest.raises(CraneError, match=r"crane.tar.gz: a: is not as SHA256SUMS says"):
        module.check_archive(path)


def test_the_metadata_for_zenodo_is_that_of_the_citation_file(module):
    assert (ROOT / ".zenodo.json").read_text(encoding="utf-8") == module.zenodo_text()
    found = json.loads(module.zenodo_text())
    assert found["related_identifiers"][0]["identifier"] == "arXiv:2601.04664"
    named = module.zenodo_metadata(
        {"title": "T", "version": "1", "license": "MIT", "preferred-citation": {"title": "P"}}
        | {"authors": [{"family-names": "Le", "given-names": "Yifan"}, {"name": "A group"}]}
    )
    assert named["creators"] == [{"name": "Le, Yifan"}, {"name": "A group"}]
