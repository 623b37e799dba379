"""Source, machine, models, data and seeds in a manifest, where they are known and where not."""

import json
import subprocess
from unittest.mock import Mock

import pytest
import yaml

from crane_lib.files import read_json, sha256, write_text
from crane_run import manifest
from crane_run.manifest import Manifest, ModelOrigin, _model_origin
from crane_study import machine
from crane_study.profile import HubModel, load_profile
from tests.run.small_run import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CRANE_JUDGE_KEY", "HF_TOKEN"):
            patch.setenv(name, "sk-very-secret")
        return make_run(tmp_path_factory.mktemp("made") / "mini")


def test_a_manifest_has_its_form_and_no_secret(run, tmp_path):
    text = (run / "manifest.json").read_text()
    assert "sk-very-secret" not in text
    assert str(run.parent) not in text
    found = Manifest.model_validate_json(text)
    assert found == manifest.read_manifest(run)
    assert {"tables/03_langspec.csv", "sections/00_models.json", "report.md", "profile.yaml"} <= set(found.outputs)
    assert "manifest.json" not in found.outputs
    assert found.outputs["report.md"] == sha256(run / "report.md")
    write_text(tmp_path / "manifest.json", json.dumps({"schema": "crane.manifest/1"}))  # an earlier form
    assert [manifest.is_current(folder) for folder in (run, tmp_path, tmp_path / "none")] == [True, False, False]
    stage = {one.name: one for one in found.stages}["base_model"]
    path = run / "stages" / "base_model" / "stage.json"
    assert (stage.record, stage.inputs) == (sha256(path), read_json(path)["inputs"])
    assert stage.peak_memory_mib > 10
    assert stage.memory_measure
    weights = run / "stages" / "base_model" / "model" / "model.safetensors"
    assert found.models["base"].weights == {"model/model.safetensors": sha256(weights)}
    assert found.models["base"].kind == "trained here"
    assert found.data["samples"] == {"stages/corpus/documents.txt": sha256(run / "stages" / "corpus" / "documents.txt")}
    assert found.seeds["stages/corpus.random_seed"] == 7
    assert found.seeds["random_seed"] == load_profile("mini").random_seed


def test_a_local_models_files_are_hashed(tmp_path):
    texts = {language: f"{language}.txt" for language in ("en", "vi")}
    for name in (*texts.values(), "model/model.safetensors"):
        write_text(tmp_path / name, name)
    profile = {"description": "mine", "languages": {"en": "English", "vi": "Vietnamese"}}
    profile["source"] = {"kind": "local", "base_model": "model", "texts": texts}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    loaded = load_profile(str(tmp_path / "mine.yaml"))
    records = {"relevance_base": {"name": "relevance_base", "inputs": {"model": "abc"}, "outputs": {}}}
    found = manifest.describe_models(loaded, records)["base"]
    assert found["weights"] == {"model.safetensors": sha256(tmp_path / "model" / "model.safetensors")}
    assert found["fingerprint"] == "abc"
    data = manifest.describe_data(loaded, tmp_path, records)
    assert data["source"]["sha256"] == {name: sha256(tmp_path / f"{name}.txt") for name in ("en", "vi")}


def test_a_gguf_file_and_a_fetched_package_are_origins_that_a_manifest_takes(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("crane_run.manifest.fetched_directory", lambda name: tmp_path)
    found = [_model_origin(tmp_path / "small.gguf"), _model_origin(HubModel(id="a/b", package="gemma3-270m"))]
    for origin in found:
        assert ModelOrigin.model_validate(origin).weights
    assert [origin["kind"] for origin in found] == ["GGUF file", "package"]


def test_the_hubs_cache_names_commit_and_hashes(tmp_path, monkeypatch):
    digest = "a" * 64
    snapshot = tmp_path / "snapshots" / "0123456789abcdef"
    write_text(tmp_path / "blobs" / digest, "weights")
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blobs" / digest)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_names, **_options: str(snapshot))
    found = manifest.describe_models(load_profile("qwen2.5-0.5b"), {})
    assert found["base"]["commit"] == "0123456789abcdef"
    assert found["base"]["weights"] == {"model.safetensors": digest}
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=OSError("not in the cache")))
    assert manifest.describe_models(load_profile("qwen2.5-0.5b"), {})["base"]["commit"] is None


def test_without_git_the_commit_is_told_by_the_image_or_the_archive(tmp_path, monkeypatch):
    monkeypatch.delenv(manifest.COMMIT_VARIABLE, raising=False)
    monkeypatch.setattr(manifest, "ROOT", tmp_path)
    nothing = {"commit": None, "uncommitted_changes": None, "commit_from": None}
    assert manifest.describe_commit() == nothing
    write_text(tmp_path / manifest.ARCHIVED, "commit: $Format:%H$\n")  # not filled in
    assert manifest.describe_commit() == nothing
    write_text(tmp_path / manifest.ARCHIVED, f"commit: {'ab' * 20}\n")
    assert manifest.describe_commit()["commit"] == "ab" * 20
    monkeypatch.setenv(manifest.COMMIT_VARIABLE, "cd" * 20 + "-dirty")
    told = {"commit": "cd" * 20, "uncommitted_changes": True, "commit_from": manifest.COMMIT_VARIABLE}
    assert manifest.describe_commit() == told


def test_git_is_believed_before_all_others(git, tmp_path, monkeypatch):
    monkeypatch.setenv(manifest.COMMIT_VARIABLE, "cd" * 20)
    monkeypatch.setattr(manifest, "ROOT", tmp_path)
    write_text(tmp_path / "old.txt", "old")
    git(tmp_path)
    found = manifest.describe_commit()
    assert (found["commit_from"], found["uncommitted_changes"]) == ("git", False)
    assert manifest.refused_by_git() == ""
    write_text(tmp_path / "new.txt", "new")
    assert manifest.describe_commit()["uncommitted_changes"] is True


def test_a_checkout_of_another_user_is_said_with_gits_remedy(git, tmp_path, monkeypatch):
    monkeypatch.delenv(manifest.COMMIT_VARIABLE, raising=False)
    folder = tmp_path / "two words"
    write_text(folder / "old.txt", "old")
    git(folder)
    monkeypatch.setattr(manifest, "ROOT", folder)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    assert manifest.describe_commit()["commit"] is None
    said = manifest.refused_by_git()
    assert f"`git config --global --add safe.directory '{folder}'` allows it" in said
    assert "\n" not in said
    monkeypatch.setenv(manifest.COMMIT_VARIABLE, "cd" * 20)
    assert manifest.refused_by_git() == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, None),  # no container
        ({manifest.IMAGE_VARIABLE: "crane"}, "will not name the commit nor the image's digest"),
        ({manifest.IMAGE_VARIABLE: "crane", manifest.COMMIT_VARIABLE: "ab"}, "will not name the image's digest; "),
        ({manifest.DIGEST_VARIABLE: "sha256:12"}, "will not name the commit; "),
        ({manifest.DIGEST_VARIABLE: "sha256:12", manifest.COMMIT_VARIABLE: "ab"}, None),
    ],
)
def test_what_a_container_was_not_told_is_said_in_a_line(tmp_path, monkeypatch, given, words):
    monkeypatch.setattr(manifest, "ROOT", tmp_path)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    name, digest = given.get(manifest.IMAGE_VARIABLE), given.get(manifest.DIGEST_VARIABLE)
    assert manifest.describe_image() == ({"name": name, "digest": digest} if given else None)
    said = manifest.missing_in_container()
    assert "\n" not in said
    assert said == "" if words is None else words in said
    assert ("COMMIT=..." in said) == ("the commit" in said)
    assert (f"-e {manifest.DIGEST_VARIABLE}=..." in said) == ("the image's digest" in said)


def test_packages_that_are_not_the_locked_ones(tmp_path):
    numpy, pandas = map(manifest.installed_version, ("numpy", "pandas"))
    text = f"numpy=={numpy} \\\n    --hash=sha256:00\npandas==0.0.1 ; sys_platform == 'linux'\nnot-installed==1\n"
    write_text(tmp_path / "a.lock", text)
    found = manifest.describe_locks(tmp_path)
    assert found["differing"] == {"pandas": {"locked": "0.0.1", "installed": pandas}}
    assert found["files"] == {"a.lock": sha256(tmp_path / "a.lock")}


def test_gpus_as_nvidia_smi_lists_them(monkeypatch):
    def answers(text, code=0):
        done = subprocess.CompletedProcess([], code, text, "")
        monkeypatch.setattr(machine.subprocess, "run", lambda *_command, **_options: done)
        found = machine.describe_machine()
        return found["gpus"], found["gpu_driver"]

    gpu = {"name": "NVIDIA H100", "memory_mib": 81559}
    assert answers("NVIDIA H100, 570.1, 81559\nNVIDIA H100, 570.1, 81559\n") == ([gpu, gpu], "570.1")
    assert answers("Failed to initialize", 9)[0] == []
    assert answers("A GPU, [N/A], [N/A]\n")[1] is None


@pytest.mark.parametrize(
    ("usable", "limit", "granted"),
    [(4, "max 1", 4), (4, "250000 100000", 2), (4, "50000 100000", 1), (2, "800000 100000", 2), (None, "max 1", 1)],
)
def test_cores_and_memory_that_a_container_grants(tmp_path, monkeypatch, usable, limit, granted):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_usable_cores", lambda: usable)
    assert machine.describe_machine()["core_limit"] is None
    write_text(tmp_path / "cpu.max", limit)
    write_text(tmp_path / "memory.max", "1073741824\n")
    assert machine.granted_cores() == granted
    assert machine.cores_are_limited() == (granted < (usable or 1))
    found = machine.describe_machine()
    cores, _, period = limit.partition(" ")
    assert found["core_limit"] == (None if cores == "max" else int(cores) / int(period))
    assert found["memory_limit_bytes"] == machine.granted_memory() == 1 << 30
