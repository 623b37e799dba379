"""Needs of a profile, on machines and hubs that tests make up."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import write_json
from crane_run import rehearsal as made_up
from crane_run.preflight import Host, preflight
from crane_study import ROOT, hub
from crane_study.measure.judgings import KEY, MODEL, URL, Endpoint
from crane_study.profile import load_profile, profile_names
from tests.small import write_study
from tests.study.measure.judge_server import reply, stub_server

REAL = ["llama2-7b", "qwen2.5-0.5b", "qwen3-8b"]


class Fake(Host):
    def __init__(self, *, gpu=80.0, memory=256.0, free=500.0, cached=False, refused="", one_disk=True):
        self.refused, self.asked = refused, {}
        self.gpu_memory_gb, self.free_gb = lambda device: gpu, lambda folder: free
        self.memory_gb, self.same_disk = lambda: memory, lambda one, other: one_disk
        self.cached_model = self.cached_task = lambda named: cached

    def check_judge(self):
        Endpoint.from_environment()

    def check_reachable(self, name, kind, revision):
        self.asked[kind, name] = revision
        if name == self.refused:
            raise CraneError(f"{kind} {name}: is gated; accept its licence")


def missing(profile, machine, folder=Path("nowhere")):
    """Remark on each thing that is missing, by its name."""
    checks = preflight(profile, folder, machine)
    return {check.what.partition(" /")[0]: check.remark for check in checks if not check.met}


@pytest.fixture(scope="module")
def llama():
    return load_profile("llama2-7b")


def test_a_machine_that_has_all(llama, tmp_path):
    machine = Fake()
    checks = preflight(llama, tmp_path, machine)
    assert len(checks) == 10
    assert all(check.met for check in checks)
    assert ("model", "meta-llama/Llama-2-7b-chat-hf") in machine.asked
    datasets = [name for kind, name in machine.asked if kind == "dataset"]
    assert datasets == ["allenai/c4", "cais/mmlu", "ceval/ceval-exam", "facebook/belebele"]
    cpu = preflight(llama.model_copy(update={"device": "cpu"}), tmp_path, Fake(gpu=0))
    assert "GPU memory" not in {check.what for check in cpu}
    (tmp_path / "stages/corpus").mkdir(parents=True)
    (tmp_path / "stages/corpus/stage.json").write_text("{}")
    machine = Fake(cached=True)
    assert missing(llama, machine, tmp_path) == {}
    assert machine.asked == {}  # nobody is asked for what is there
    source, machine = llama.source, Fake()  # the revision asked for is the profile's
    pinned = {language: text.model_copy(update={"revision": "v2"}) for language, text in source.texts.items()}
    chat = source.chat_model.model_copy(update={"revision": "abc"})
    changed = source.model_copy(update={"texts": pinned, "chat_model": chat})
    preflight(llama.model_copy(update={"source": changed}), Path("nowhere"), machine)
    asked = {("model", chat.id): "abc", ("model", source.base_model.id): "main"}
    asked |= {("dataset", "allenai/c4"): "v2", ("dataset", "cais/mmlu"): "main"}
    assert asked.items() <= machine.asked.items()


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Fake(gpu=23.6), {"GPU memory": "40 GB needed, 23.6 GB there"}),
        (Fake(gpu=39.5), {}),
        (Fake(free=50, one_disk=False), {}),  # results and downloads do not share a disk
        (Fake(free=50, cached=True), {}),  # nothing to download
        (Fake(memory=16), {"memory": "32 GB needed, 16.0 GB there"}),
        (Fake(refused="meta-llama/Llama-2-7b-hf"), {"model meta-llama/Llama-2-7b-hf": "is gated; accept its licence"}),
        (Fake(refused="cais/mmlu"), {"task mmlu (cais/mmlu)": "is gated; accept its licence"}),
    ],
)
def test_what_is_missing_is_named(llama, machine, expected):
    assert missing(llama, machine) == expected
    wants = llama.needs.disk_gb + llama.needs.download_gb
    assert list(missing(llama, Fake(free=50)).values()) == [f"{wants:g} GB needed, 50.0 GB there"]


def test_every_profile_says_what_it_takes_and_llama_has_the_papers_settings(llama):
    assert (llama.source.relevance_documents, llama.relevance.max_length) == (5000, 2048)
    assert (llama.source.sampling.random_seed, llama.dtype) == (42, "bfloat16")
    assert (llama.evaluation.few_shot, llama.evaluation.random_seed) == (5, 2025)
    for name in ("mini", "smoke"):
        assert not load_profile(name).has_needs
        (check,) = preflight(load_profile(name), Path("nowhere"), Fake())
        assert check.what == "disk for nowhere"
    assert set(REAL) <= set(profile_names())
    assert "template" not in profile_names()
    for name in [*REAL, str(ROOT / "configs/template.yaml")]:
        profile = load_profile(name)
        assert min(profile.needs.download_gb, profile.needs.hours) > 0
        assert set(profile.evaluation.tasks) == {"en", "zh", "vi"}
        assert profile.is_gated == (name == "llama2-7b")


@pytest.mark.parametrize("command", ["run", "preflight"])
def test_an_uncached_model_offline_is_a_list_and_exit_code_2(tmp_path, command):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    environment["HF_TOKEN"] = "hf_secret"
    program = [sys.executable, "-m", "crane_run.cli", command, "--profile", "qwen2.5-0.5b"]
    program += ["--artifacts", str(tmp_path / "out")]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert "MISSING  model Qwen/Qwen2.5-0.5B: is not (or not fully) in the hub's cache" in said
    assert "HF_HUB_OFFLINE" in said
    assert not any(word in said for word in ("Traceback", "hf_secret"))
    assert not (tmp_path / "out").exists()


def test_what_the_hub_says_becomes_one_line(monkeypatch):
    from huggingface_hub import HfApi, errors

    def info(_api, name, *, repo_type, revision):
        if revision != "v1":
            raise errors.RevisionNotFoundError.__new__(errors.RevisionNotFoundError)

    monkeypatch.setattr(HfApi, "auth_check", lambda _api, name, *, repo_type: None)
    monkeypatch.setattr(HfApi, "repo_info", info)
    Host().check_reachable("a/b", "dataset", "v1")
    with pytest.raises(CraneError, match="dataset a/b: has no revision 'v9'"):
        Host().check_reachable("a/b", "dataset", "v9")
    for kind, words in (
        (errors.GatedRepoError, r"model a/b: is gated; accept its terms on https://huggingface\.co/a/b and log in"),
        (errors.RepositoryNotFoundError, "model a/b: is not on the hub"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE"),
        (errors.LocalEntryNotFoundError, "not fully"),
        (ConnectionError, "the hub cannot be reached"),
    ):
        error = kind.__new__(kind)
        with pytest.raises(CraneError, match=words) as found, hub.naming_mistakes("model a/b", "v9"):
            raise error
        assert "\n" not in str(found.value)


def test_a_gpu_beyond_the_last_has_no_memory_and_an_index_that_was_cut_off_is_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _n: SimpleNamespace(total_memory=24e9))
    assert [Host().gpu_memory_gb(device) for device in ("cuda:0", "auto", "cuda:7")] == [24, 24, 0]
    for name in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map"')
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_arguments, **_options: str(tmp_path))
    assert not hub.cached_model("a/b", revision="main")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    assert not hub.cached_model("a/b", revision="main")
    (tmp_path / "model-00002-of-00002.safetensors").write_text("{}")
    assert hub.cached_model("a/b", revision="main")


# --- a user's own study ------------------------------------------------------------------------------------------


def own(folder, *, chat=True, **changes):
    """A local study, with changes of its profile."""
    path = write_study(folder, chat=chat)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return load_profile(str(path))


def test_a_users_own_files_are_looked_for(tmp_path):
    profile = own(tmp_path)
    assert missing(profile, Fake()) == {}
    (tmp_path / "vi.jsonl").unlink()
    shutil.rmtree(tmp_path / "chat")
    checks = {check.what: check.remark for check in preflight(profile, tmp_path, Fake()) if not check.met}
    absent = "no such directory; give a Hugging Face model directory"
    place = tmp_path.resolve()
    assert checks == {f"model {place}/chat": absent, f"file {place}/vi.jsonl": "no such file"}


def test_a_model_larger_than_memory_is_refused_with_the_arithmetic(tmp_path):
    profile = own(tmp_path, dtype="float64", device="auto")
    name = next(check.what for check in preflight(profile, tmp_path, Fake()) if "for the weights of" in check.what)
    assert name == f"GPU memory for the weights of {tmp_path.resolve()}/model"
    found = missing(profile, Fake(gpu=0.0, memory=1e-5))
    assert list(found) == ["memory for the weights of"]
    assert "GB needed, 0.0 GB there (" in found["memory for the weights of"]
    assert found["memory for the weights of"].endswith("values in float64)")
    assert missing(own(tmp_path, needs={"memory_gb": 1}), Fake(gpu=0.0, memory=2.0)) == {}


def test_quantised_models_are_named_wherever_they_lie(tmp_path, llama, monkeypatch):
    """In a folder, in the hub's cache, and on the hub, of which nothing is fetched."""
    from huggingface_hub import HfApi

    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    profile = own(tmp_path, chat=False)
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | quantised))
    said = "its weights are quantised (gptq, by quantization_config in config.json), and relevance and masks need plain"
    assert missing(profile, Fake())["model"].startswith(said)
    source = llama.source.model_copy(update={"chat_model": None})
    on_hub = llama.model_copy(update={"source": source})
    patterns = []

    def snapshot(name, *, allow_patterns=(), local_files_only=False, **_options):
        if local_files_only and not patterns:
            raise OSError("not in the cache")
        patterns.append(allow_patterns)
        return str(tmp_path / "model")

    class Hub(Fake):
        check_reachable = Host.check_reachable

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(HfApi, "auth_check", lambda _api, name, *, repo_type: None)
    info = SimpleNamespace(config=quantised)
    monkeypatch.setattr(HfApi, "repo_info", lambda _api, name, *, repo_type, revision: info)
    assert missing(on_hub, Hub())[f"model {source.base_model.id}"].startswith(said)
    info.config = {"model_type": "llama"}
    assert f"model {source.base_model.id}" not in missing(on_hub, Hub())
    with pytest.raises(CraneError, match=r"quantised \(gptq"):
        hub.model_directory_of(source.base_model.id, revision="main")
    assert patterns == [["*.json"]]  # no weights
    assert missing(on_hub, Hub())[f"model {source.base_model.id}"].startswith(said)  # in the cache now


def open_questions(folder, **files):
    for language, text in files.items():
        (folder / f"open.{language}.txt").write_text(text, encoding="utf-8")
    return {language: f"open.{language}.txt" for language in ("en", "vi")}


@pytest.mark.parametrize("judge", ["endpoint", "both"])
def test_the_judges_variables_are_looked_at(tmp_path, monkeypatch, judge):
    for name in (URL, MODEL, KEY):
        monkeypatch.delenv(name, raising=False)
    assert not own(tmp_path).has_needs  # of local files
    assert missing(own(tmp_path, open_ended={"judge": judge}), Fake()) == {}  # nothing is judged
    asked = open_questions(tmp_path, en="Who?\n", vi="Ai?\n")
    profile = own(tmp_path, open_ended={"questions": asked, "judge": judge})
    assert profile.has_needs
    assert missing(profile, Fake())["judge"].startswith("CRANE_JUDGE_URL is not set; set CRANE_JUDGE_URL,")
    for name, value in ((URL, "https://judge.example/v1"), (MODEL, "m"), (KEY, "a-key")):
        monkeypatch.setenv(name, value)
    assert missing(profile, Fake()) == {}
    assert not any("a-key" in str(check) for check in preflight(profile, tmp_path, Fake()))
    monkeypatch.setenv(KEY, "a key\n")
    assert missing(profile, Fake())["judge"].startswith("CRANE_JUDGE_KEY has a space at an end")


def test_the_judge_has_a_plain_answer_to_score_before_any_work(tmp_path, monkeypatch):
    asked = open_questions(tmp_path, en="Who?\n", vi="Ai?\n")
    profile = own(tmp_path, open_ended={"questions": asked, "judge": "endpoint"})
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:7897/")
    monkeypatch.setenv(MODEL, "m")
    with stub_server(lambda _n, _body: reply("hm"), key="a-key", picky=True) as (url, stub):
        monkeypatch.setenv(URL, url)
        for key, problem in (
            ("a-key", ": gives no score from 1 to 10 (hm); 12 forms"),
            ("another", ": refuses the key"),
        ):
            monkeypatch.setenv(KEY, key)
            assert problem in missing(profile, Host())["judge"]
        stub.picky = False
        monkeypatch.setenv(KEY, "a-key")
        assert missing(profile, Host()) == {}
        # What is scored already needs no judge.
        monkeypatch.setenv(KEY, "another")
        write_json(tmp_path / "stages" / "open_scores_endpoint" / "stage.json", {})
        assert missing(profile, Host(), tmp_path) == {}


def test_the_files_of_open_questions_are_read(tmp_path):
    for files, expected in (
        ({"en": "Who?\n"}, f"{tmp_path.resolve()}/open.vi.txt: no such file"),
        ({"en": "Who?\nWhere?\n", "vi": "Ai?\n"}, "languages have different numbers of questions (en 2, vi 1)"),
        ({"en": "Who?\n", "vi": "\n"}, f"{tmp_path.resolve()}/open.vi.txt: has no questions"),
    ):
        profile = own(tmp_path, open_ended={"questions": open_questions(tmp_path, **files)})
        assert profile.has_needs
        assert missing(profile, Fake())["open questions"].startswith(expected)


def test_a_published_list_is_read_and_compared_with_the_model(tmp_path, llama):
    path = tmp_path / "list.pth"
    profile = own(tmp_path, paper={"lape_list": "list.pth"})
    assert profile.has_needs
    assert "no such file" in missing(profile, Fake())["paper.lape_list"]
    torch.save([[torch.tensor([1, 23])] * 2] * 7, path)
    assert missing(profile, Fake()) == {}
    torch.save([[torch.tensor([1, 24])] * 2] * 7, path)
    assert "index 24 is out of range for a width of 24" in missing(profile, Fake())["paper.lape_list"]
    torch.save([[torch.tensor([1, 2])] * 3] * 7, path)
    assert "'en' has 3 layers, the model 2" in missing(profile, Fake())["paper.lape_list"]
    assert missing(profile.model_copy(update={"rehearsal": True}), Fake()) == {}  # its model is not the list's
    torch.save([[torch.tensor([1, 23])] * 2] * 2, path)
    assert "has 2 languages, LAPE's lists have 7 or 6" in missing(profile, Fake())["paper.lape_list"]
    for languages, problem in ((["vi", "en"], None), (["sw", "en"], "has no 'vi', only sw, en")):
        named = own(tmp_path, paper={"lape_list": "list.pth", "lape_list_languages": languages})
        assert (problem or "") in missing(named, Fake()).get("paper.lape_list", "")
        assert bool(missing(named, Fake())) == (problem is not None)
    # A model that is not there yet.
    named = llama.model_copy(update={"paper": llama.paper.model_copy(update={"lape_list": path})})
    bare = named.model_copy(update={"source": llama.source.model_copy(update={"architecture": {}})})
    torch.save([[torch.tensor([11008])] * 32] * 7, path)
    assert "out of range for a width of 11008" in missing(named, Fake())["paper.lape_list"]
    assert missing(bare, Fake()) == {}  # compared with it when it is
    path.write_bytes(b"no tensors")
    assert "is not a file of tensors" in missing(bare, Fake())["paper.lape_list"]


@pytest.mark.parametrize(
    ("spoil", "changes", "expected"),
    [
        (None, {}, None),
        (lambda file: file.write_text(file.read_text().replace("mc_answer3", "m")), {}, "has no column 'mc_answer3'"),
        (Path.unlink, {}, "has no vie_Latn.jsonl"),
        (None, {"subjects": ["law"]}, "has no subject 'law'"),
        (None, {"path": "elsewhere"}, "no such folder"),
        (None, {"path": None, "dataset": "its folder"}, None),
        (None, {"few_shot": 9}, "has 9 rows to take 9 examples from"),
    ],
)
def test_a_folder_of_questions_is_read(tmp_path, spoil, changes, expected):
    place = tmp_path / "questions"
    made_up.write_belebele(place, config="vie_Latn", language="vi", questions=9)
    if spoil is not None:
        spoil(*place.rglob("*.jsonl"))
    task = {"name": "belebele", "path": "questions"} | changes
    few_shot = {"few_shot": task.pop("few_shot")} if "few_shot" in task else {}
    if "dataset" in task:
        task["dataset"] = str(place)
    profile = own(tmp_path, chat=False, evaluation={"tasks": {"en": task, "vi": task}, **few_shot})
    assert profile.has_needs
    machine = Fake()
    found = missing(profile, machine)
    assert machine.asked == {}
    assert found == {} if expected is None else expected in found["task belebele"]
