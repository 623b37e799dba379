import json
import shutil

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from safetensors.torch import load_file, save_file

from crane_lib.errors import CraneError
from crane_lib.models import check_model_directory, check_placement, load_model, model_directory, pick_device
from crane_lib.relevance import document_relevance
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
    with pytest.raises(CraneError, match="device 'quantum': not a device; use auto, cpu, cuda or map"):
        pick_device("quantum")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CraneError, match="device 'cuda:1': no CUDA GPU"):
        pick_device("cuda:1")
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["meta", "vulkan", "mtia", "mps"])
def test_a_device_that_torch_can_name_and_not_compute_on(name, monkeypatch):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine computes on mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CraneError) as error:
        pick_device(name)
    assert str(error.value) == f"device '{name}': cannot be computed on here; there are cpu"


def test_the_number_of_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(CraneError) as error:
        pick_device("cuda:9")
    assert str(error.value) == "device 'cuda:9': no such GPU; there are cpu, cuda:0, cuda:1"


def test_each_process_of_torchrun_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:0") == torch.device("cuda:0")
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(CraneError, match="process 2 of this machine has no GPU of its own: 2 are visible"):
        pick_device("auto")


# --- one model over several devices ------------------------------------------------------------------------------


def test_a_model_in_parts_needs_gpus_and_one_process_a_machine(original, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CraneError, match="device 'map': no CUDA GPU is visible"):
        load_model(original, device="map")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(CraneError, match="takes all GPUs of a machine, but 4 processes were started on it"):
        load_model(original, device="map")


@pytest.mark.parametrize("left_over", ["cpu", "disk"])
def test_parts_that_do_not_fit_on_the_gpus_are_named(left_over, tmp_path):
    model = small_model(400)
    check_placement(model, tmp_path)  # not in parts at all
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "lm_head": 1}
    check_placement(model, tmp_path)
    model.hf_device_map |= {"model.layers.1": left_over, "lm_head": left_over}
    with pytest.raises(CraneError, match=r"does not fit on the GPUs: 2 of its 4 parts .* \(the first: lm_head\)"):
        check_placement(model, tmp_path)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rule", ["attnlrp", "gradient"])
def test_relevance_of_a_model_in_parts(rule, checkpointing):
    ids = torch.tensor([[0, 7, 9, 30], [3, 5, 5, 8]])
    model = small_model(400).double()
    expected = document_relevance(model, ids, rule=rule)
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"]
    dispatch_model(model, dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
    before = state(model)
    assert any("forward" in vars(module) for module in model.modules())  # accelerate's hooks are there
    found = document_relevance(model, ids, rule=rule, checkpointing=checkpointing)
    for site, values in expected.sites.items():
        assert torch.equal(found.sites[site], values)
    assert torch.equal(found.token, expected.token)
    assert state(model) == before
    remove_hook_from_submodules(model)
    assert torch.equal(document_relevance(model, ids, rule=rule).neuron, expected.neuron)


def state(model):
    """What a pass might leave behind in a model: its modules' own attributes, hooks, modes and parameters' flags."""
    modules = [
        (
            *(name, sorted(vars(module)), id(vars(module).get("forward")), module.training),
            *(len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)),
        )
        for name, module in model.named_modules()
    ]
    return modules, [parameter.requires_grad for parameter in model.parameters()]


def test_the_directory_of_a_trained_model_and_of_ones_own(original, tmp_path):
    assert model_directory(original) == original
    (tmp_path / "model").mkdir()
    assert model_directory(tmp_path) == tmp_path / "model"
