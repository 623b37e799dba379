import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from crane_lib.errors import CraneError
from crane_lib.models.loading import (
    check_model_directory,
    directory_fingerprint,
    load_model,
    model_directory,
    pick_device,
)
from tests.small import small_model, small_tokenizer, write_model


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def test_a_model_is_loaded_for_inference(original):
    model, tokenizer = load_model(original, device="cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    expected = small_model(len(tokenizer))
    ids = torch.tensor([[0, 7, 9]])
    assert torch.equal(model(ids).logits, expected(ids).logits)


@pytest.mark.parametrize(
    ("asked", "stored", "got"),
    [
        ("float64", torch.float32, torch.float64),
        ("bfloat16", torch.float32, torch.bfloat16),
        ("auto", torch.bfloat16, torch.bfloat16),
        ("float32", torch.bfloat16, torch.float32),
    ],
)
def test_the_precision_is_the_one_asked_for(folder, asked, stored, got):
    small_model(400).to(stored).save_pretrained(folder)
    assert load_model(folder, device="cpu", dtype=asked)[0].dtype == got


def test_a_tokenizer_without_pad_token_pads_with_the_end(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_model(folder, device="cpu")[1].pad_token == "<|end|>"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", r"has no weights \(\*\.safetensors\)"),
        ("tokenizer*", r"has no tokenizer \(tokenizer\.json\)"),
    ],
)
def test_a_missing_part_is_named(folder, missing, words):
    for path in list(folder.glob(missing)):
        path.unlink()
    with pytest.raises(CraneError, match=f"model .*model: {words}"):
        load_model(folder)


def test_no_directory(tmp_path):
    with pytest.raises(CraneError, match="no such directory"):
        check_model_directory(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(CraneError, match="no such directory"):
        check_model_directory(tmp_path / "file")


def half_file(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("model.safetensors", half_file),
        ("model.safetensors", lambda path: path.write_bytes(b"")),
        ("config.json", lambda path: path.write_text("{half")),
        ("config.json", lambda path: path.write_text("{}")),
        ("config.json", lambda path: path.write_text('{"model_type": "no-such-model"}')),
        ("tokenizer.json", half_file),
        ("tokenizer.json", lambda path: path.write_text("{}")),
    ],
)
def test_an_unreadable_part_is_one_line(folder, name, break_it):
    break_it(folder / name)
    with pytest.raises(CraneError) as error:
        load_model(folder, device="cpu")
    assert f"model {folder}: cannot be loaded" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_all_there_are_not_made_up(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CraneError, match=r"its weights lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder, device="cpu")


def test_weights_of_another_size_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(25, 16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CraneError, match="cannot be loaded"):
        load_model(folder, device="cpu")


def test_a_tokenizer_that_is_larger_than_the_embedding(folder):
    tokenizer = small_tokenizer()
    small_model(len(tokenizer) - 10).save_pretrained(folder)
    with pytest.raises(CraneError) as error:
        load_model(folder, device="cpu")
    size = len(tokenizer)
    assert f"its tokenizer has {size} tokens, its embedding {size - 10} rows" in str(error.value)


def test_an_embedding_that_is_padded_beyond_the_tokenizer_is_fine(folder):
    small_model(448).save_pretrained(folder)
    assert load_model(folder, device="cpu")[0].config.vocab_size == 448


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(CraneError, match="device 'quantum': not a device; use auto, cpu or cuda"):
        pick_device("quantum")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CraneError, match="device 'cuda:1': no CUDA GPU"):
        pick_device("cuda:1")
    assert pick_device("auto") == torch.device("cpu")


def test_the_directory_of_a_trained_model_and_of_ones_own(original, tmp_path):
    assert model_directory(original) == original
    (tmp_path / "model").mkdir()
    assert model_directory(tmp_path) == tmp_path / "model"


def test_the_fingerprint_of_a_directory(original, folder):
    before = directory_fingerprint(folder)
    assert before == directory_fingerprint(original)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert directory_fingerprint(folder) != before


def test_the_fingerprint_of_a_large_file_sees_its_ends(tmp_path):
    path = tmp_path / "model.safetensors"
    content = bytearray(10 << 20)
    seen = set()
    for position in (None, 0, len(content) - 1):
        changed = bytearray(content)
        if position is not None:
            changed[position] = 1
        path.write_bytes(changed)
        seen.add(directory_fingerprint(tmp_path))
    path.write_bytes(content + b"\0")
    seen.add(directory_fingerprint(tmp_path))
    assert len(seen) == 4
