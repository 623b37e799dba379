"""What a profile needs, on machines and hubs that tests make up."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from crane_lib.errors import CraneError
from crane_lib.models import hub
from crane_lib.preflight import Machine, preflight
from crane_lib.profile import load_profile, profile_names

ROOT = Path(__file__).resolve().parents[1]
REAL = ["llama2-7b", "qwen2.5-0.5b", "qwen3-8b"]


class Fake(Machine):
    def __init__(self, *, gpu=80.0, memory=256.0, free=500.0, cached=False, refused=(), one_disk=True):
        self.gpu, self.memory, self.free, self.cached, self.refused = gpu, memory, free, cached, refused
        self.one_disk, self.asked = one_disk, []

    def gpu_memory_gb(self, device):
        return self.gpu

    def memory_gb(self):
        return self.memory

    def free_gb(self, folder):
        return self.free

    def same_disk(self, one, other):
        return self.one_disk

    def cached_model(self, model):
        return self.cached

    def cached_task(self, task):
        return self.cached

    def check_reachable(self, name, kind):
        self.asked.append((kind, name))
        if name in self.refused:
            raise CraneError(f"{kind} {name}: is gated; accept its licence")


def missing(profile, machine, folder=Path("nowhere")):
    return {
        check.what.partition(" /")[0]: check.remark for check in preflight(profile, folder, machine) if not check.met
    }


@pytest.fixture(scope="module")
def llama():
    return load_profile("llama2-7b")


def test_a_machine_that_has_all(llama):
    machine = Fake()
    checks = preflight(llama, Path("nowhere"), machine)
    assert len(checks) == 9
    assert all(check.met for check in checks)
    assert ("model", "meta-llama/Llama-2-7b-chat-hf") in machine.asked
    assert [name for kind, name in machine.asked if kind == "dataset"] == [
        "allenai/c4",
        "cais/mmlu",
        "ceval/ceval-exam",
        "facebook/belebele",
    ]


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Fake(gpu=23.6), {"GPU memory": "40 GB needed, 23.6 GB there"}),
        (Fake(gpu=39.5), {}),
        (Fake(memory=16), {"memory": "32 GB needed, 16.0 GB there"}),
        (
            Fake(refused={"meta-llama/Llama-2-7b-hf"}),
            {"model meta-llama/Llama-2-7b-hf": "is gated; accept its licence"},
        ),
        (Fake(refused={"cais/mmlu"}), {"task mmlu (cais/mmlu)": "is gated; accept its licence"}),
    ],
)
def test_what_is_missing_is_named(llama, machine, expected):
    assert missing(llama, machine) == expected


def test_results_and_downloads_share_a_disk_or_not(llama, tmp_path):
    wants = llama.needs.disk_gb + llama.needs.download_gb
    (remark,) = missing(llama, Fake(free=50), tmp_path).values()
    assert remark == f"{wants:g} GB needed, 50.0 GB there"
    assert missing(llama, Fake(free=50, one_disk=False), tmp_path) == {}
    assert missing(llama, Fake(free=50, cached=True), tmp_path) == {}  # nothing to download


def test_nobody_is_asked_for_what_is_there(llama, tmp_path):
    (tmp_path / "stages/corpus").mkdir(parents=True)
    (tmp_path / "stages/corpus/stage.json").write_text("{}")
    machine = Fake(cached=True)
    assert missing(llama, machine, tmp_path) == {}
    assert machine.asked == []


def test_profiles_that_need_nothing_but_some_disk():
    for name in ("mini", "smoke"):
        assert not load_profile(name).has_needs
        (check,) = preflight(load_profile(name), Path("nowhere"), Fake())
        assert check.what == "disk for nowhere"


def test_every_real_profile_says_what_it_takes():
    assert set(REAL) <= set(profile_names())
    assert "template" not in profile_names()
    for name in [*REAL, str(ROOT / "configs/template.yaml")]:
        profile = load_profile(name)
        assert profile.needs.download_gb > 0
        assert profile.needs.hours > 0
        assert set(profile.evaluation.tasks) == {"en", "zh", "vi"}
        assert profile.is_gated == (name == "llama2-7b")


def test_llama_has_the_papers_settings(llama):
    assert (llama.source.relevance_documents, llama.relevance.max_length) == (5000, 2048)
    assert (llama.source.sampling.random_seed, llama.dtype) == (42, "bfloat16")
    assert (llama.evaluation.few_shot, llama.evaluation.random_seed) == (5, 2025)


@pytest.mark.parametrize(
    "command",
    [["run", "--profile", "qwen2.5-0.5b"], ["preflight", "--profile", "qwen2.5-0.5b"]],
)
def test_an_uncached_model_offline_is_a_list_and_exit_code_2(tmp_path, command):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    environment["HF_TOKEN"] = "hf_secret"
    done = subprocess.run(
        [sys.executable, "-m", "crane_lib.cli", *command, "--artifacts", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert "MISSING  model Qwen/Qwen2.5-0.5B: is not (or not fully) in the hub's cache" in said
    assert "HF_HUB_OFFLINE" in said
    assert "Traceback" not in said
    assert "hf_secret" not in said
    assert not (tmp_path / "out").exists()


def test_what_the_hub_says_becomes_one_line(monkeypatch):
    from huggingface_hub import errors

    for kind, words in (
        (errors.GatedRepoError, r"model a/b: is gated; accept its licence on https://huggingface\.co/a/b and log in"),
        (errors.RepositoryNotFoundError, "model a/b: is not on the hub"),
        (errors.RevisionNotFoundError, "model a/b: has no revision 'v9'"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE"),
        (errors.LocalEntryNotFoundError, "not fully"),
        (ConnectionError, "the hub cannot be reached"),
    ):
        error = kind.__new__(kind)
        with pytest.raises(CraneError, match=words) as found, hub.naming_mistakes("model a/b", "v9"):
            raise error
        assert "\n" not in str(found.value)


def test_a_gpu_beyond_the_last_has_no_memory(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _n: SimpleNamespace(total_memory=24e9))
    assert Machine().gpu_memory_gb("cuda:0") == 24
    assert Machine().gpu_memory_gb("auto") == 24
    assert Machine().gpu_memory_gb("cuda:7") == 0


def test_a_run_on_the_cpu_needs_no_gpu(llama, tmp_path):
    checks = preflight(llama.model_copy(update={"device": "cpu"}), tmp_path, Fake(gpu=0))
    assert "GPU memory" not in {check.what for check in checks}


def test_an_index_that_was_cut_off_is_no_model(tmp_path, monkeypatch):
    for name in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map"')
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_arguments, **_options: str(tmp_path))
    assert not hub.cached_model("a/b", revision="main")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    assert not hub.cached_model("a/b", revision="main")
    (tmp_path / "model-00002-of-00002.safetensors").write_text("{}")
    assert hub.cached_model("a/b", revision="main")
