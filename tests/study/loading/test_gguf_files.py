"""GGUF files: converted once, exactly, and used wherever a model is named; anything else is one line."""

import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from crane_lib.errors import CraneError
from crane_lib.files import sha256
from crane_study.loading import gguf_files
from crane_study.loading.gguf_files import as_directory, check_gguf, converted_directory
from crane_study.loading.models import check_model_directory, load_model
from tests.gguf_model import write_gguf

SENTENCES = ["the river runs past old mills", "con sông chảy qua cầu đá xám", "河流经过一座石桥", "a ☃ nobody listed"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return path, write_gguf(path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_is_converted_once_and_keeps_its_values(written, cache):
    path, expected = written
    steps = []
    folder = as_directory(path, progress=lambda done, total: steps.append((done, total)))
    assert folder == converted_directory(sha256(path))
    assert folder.is_relative_to(cache)
    assert steps[0] == (0, len(expected))
    assert steps[-1] == (len(expected), len(expected))
    settings = json.loads((folder / "config.json").read_text())
    assert settings["model_type"] == "gemma3_text"
    assert "quantization_config" not in settings
    origin = json.loads((folder / "crane-origin.json").read_text())
    assert (origin["name"], origin["sha256"]) == ("Small Gemma 3", sha256(path))

    model, tokenizer = load_model(path, device="cpu")
    for name, weight in expected.items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id] == [0, 1, 2]
    for text in SENTENCES:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 2
        assert tokenizer.decode(ids, skip_special_tokens=True) == text

    moved = path.with_name("moved.gguf")  # the same file under another name is the same model
    shutil.copyfile(path, moved)
    assert as_directory(moved, progress=lambda *_: pytest.fail("converted again")) == folder
    assert as_directory(folder) == folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general__architecture": "mamba"}, "its architecture is 'mamba'; GGUF files of these can be used: llama, "),
        ({"general__architecture": "clip"}, r"is the vision part of a model \('clip'\)"),
        ({"general__type": "mmproj"}, "is the vision part of a model"),
        ({"gemma3__rope__scaling__type": "linear"}, "would not read its gemma3.rope.scaling.type"),
    ],
)
def test_a_model_that_would_be_read_wrong_is_refused(changes, words, tmp_path, cache):
    path = tmp_path / "odd.gguf"
    write_gguf(path, **changes)
    for use in (as_directory, check_model_directory, load_model):
        with pytest.raises(CraneError, match=f"^model .*odd.gguf: .*{words}") as error:
            use(path)
        assert "\n" not in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all", None])
def test_a_damaged_file_is_named(content, written, tmp_path, cache):
    path = tmp_path / "half.gguf"
    path.write_bytes(written[0].read_bytes()[:3000] if content is None else content)
    with pytest.raises(CraneError, match=r"half\.gguf: is no readable GGUF file"):
        check_gguf(path)
    with pytest.raises(CraneError, match=r"none\.gguf: no such file"):
        check_gguf(tmp_path / "none.gguf")


def test_a_file_cut_among_its_weights_is_one_line(written, tmp_path, cache):
    path = tmp_path / "cut.gguf"
    path.write_bytes(written[0].read_bytes()[:-20_000])
    with pytest.raises(CraneError, match=r"cut\.gguf: cannot be converted") as error:
        as_directory(path)
    assert "\n" not in str(error.value)
    assert [entry.suffix for entry in (cache / "models").iterdir()] in ([], [".lock"])


def test_a_full_disk_leaves_nothing(written, cache, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10_000)
    with monkeypatch.context() as patch:
        patch.setattr(gguf_files.shutil, "disk_usage", lambda _path: usage)
        with pytest.raises(CraneError, match=r"converted it takes .* free; name another cache in CRANE_CACHE"):
            as_directory(written[0])

    def fill(_model, folder, **_options):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fill)
    with pytest.raises(CraneError, match=r"the disk is full; free some space .* or name another cache in CRANE_CACHE"):
        as_directory(written[0])
    assert [entry.suffix for entry in (cache / "models").iterdir()] in ([], [".lock"])


def test_a_cache_that_cannot_be_made_is_named(written, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRANE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CraneError, match=r"cannot be written .*; name another cache in CRANE_CACHE"):
        as_directory(written[0])
