import json
import sys

import pytest
import torch

from crane_study import machine as module
from crane_study.machine import all_threads, on_all_threads
from crane_study.profile import load_profile
from crane_study.store import RECORD, Stage, Store
from crane_study.study import Study


@pytest.fixture(autouse=True)
def section(monkeypatch):
    """A section that has one thread of three."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CRANE_THREADS", "3")
    yield
    torch.set_num_threads(before)


def make(folder, *, word="", fail=False):
    (folder / "threads.txt").write_text(str(torch.get_num_threads()))
    if fail:
        raise RuntimeError(word)


def threads_of(stage):
    return json.loads((stage / RECORD).read_text())["threads"], int((stage / "threads.txt").read_text())


def test_all_threads(monkeypatch):
    assert all_threads() == 3
    monkeypatch.delenv("CRANE_THREADS")
    assert all_threads() == 1
    monkeypatch.setattr(module, "granted_cores", lambda: 5)
    for nothing in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", nothing)
        assert all_threads() == 5


def test_a_stage_has_the_sections_threads_or_all_of_them(tmp_path):
    store = Store(tmp_path, say=lambda _line: None)
    assert threads_of(store.run("own", make)) == (1, 1)
    made = store.run("all", make, all_threads=True)
    assert threads_of(made) == (3, 3)
    assert Store(tmp_path, say=lambda _line: None).run("all", make).reused  # they are no part of the key
    assert torch.get_num_threads() == 1
    with pytest.raises(RuntimeError, match="failed"):
        store.run("failing", make, word="failed", fail=True, all_threads=True)
    assert torch.get_num_threads() == 1


def test_without_torch_there_is_nothing_to_set(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    with on_all_threads():
        assert "torch" not in sys.modules


def test_what_all_sections_rest_on_has_all_threads(tmp_path, monkeypatch):
    """Whoever asks first, so that the models are the same in a full run and in that of one section."""
    found = {}

    def run(_store, name, _make, *, all_threads=False, **_options):
        found[name] = all_threads
        return Stage(name, tmp_path, "0", False, 0.0)

    monkeypatch.setattr(Store, "run", run)
    study = Study(load_profile("smoke").retrained(), tmp_path / "smoke")
    study.perplexity("chat")
    study.nlu("chat")
    study.control_perplexity()
    study.confounds()
    study.heads()
    study.single_effects()
    study.whole_sets()
    study.steering()
    of_models = [f"{stage}_{name}" for stage in ("relevance", "activations", "selection") for name in ("base", "chat")]
    basis = {"corpus", *of_models}
    basis |= {"base_model", "chat_model"}
    masking = {"perplexity_chat", "nlu_chat", "control_sets", "control_perplexity", "ablation", "ground_truth"}
    masking |= {"confounds", "heads", "steering_chat", "open_questions"}
    assert found == dict.fromkeys(basis, True) | dict.fromkeys(masking, False)
