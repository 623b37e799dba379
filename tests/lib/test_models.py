"""Loading models: parts, precision, devices, and tokenizers that are the model's own."""

import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from safetensors.torch import load_file, save_file

from crane_lib.errors import CraneError
from crane_lib.models import (
    check_model_directory,
    check_placement,
    check_same_vocabulary,
    check_tokenizer,
    load_model,
    model_directory,
    pick_device,
)
from crane_lib.relevance import document_relevance
from tests.small import TEXTS, small_model, small_tokenizer, write_model


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


# --- one model over several devices ---


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
    """State that a pass might change: attributes, hooks and modes of modules, and flags of parameters."""
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


# --- tokenizers ---


class Published:
    """Sizes and special tokens of a published tokenizer; `added` of its tokens were added."""

    def __init__(self, size, begin, end, *, pad=None, added=()):
        self.size, self.bos_token_id, self.eos_token_id, self.pad_token_id = size, begin, end, pad
        self.added = added

    def __len__(self):
        return self.size

    def get_vocab(self):
        return {f"token {number}": number for number in range(self.size)}

    def get_added_vocab(self):
        return {f"token {number}": number for number in self.added}


def published(rows, *, begin=None, end=None, generation=()):
    embedding = SimpleNamespace(num_embeddings=rows)
    return SimpleNamespace(
        get_input_embeddings=lambda: embedding,
        config=SimpleNamespace(bos_token_id=begin, eos_token_id=end),
        generation_config=SimpleNamespace(eos_token_id=list(generation)) if generation else None,
    )


# Rows, special tokens in config.json and generation_config.json; tokens and special tokens of the tokenizer.
GEMMA_3 = Published(262145, 2, 1, pad=0, added=(0, 1, 2, 105, 106, 262144))
PUBLISHED = {
    "Llama-2-7b": (published(32000, begin=1, end=2), Published(32000, 1, 2)),
    "Qwen2.5-0.5B": (published(151936, begin=151643, end=151643), Published(151665, None, 151643)),
    "Qwen2.5-0.5B-Instruct": (
        published(151936, begin=151643, end=151645, generation=[151645, 151643]),
        Published(151665, None, 151645),
    ),
    "Qwen2.5, an end of turn that config.json does not name": (
        published(151936, begin=151643, end=151643, generation=[151645, 151643]),
        Published(151665, None, 151645),
    ),
    "Qwen3-8B": (published(151936, begin=151643, end=151645), Published(151669, None, 151645)),
    "gemma-2-2b-it": (published(256000, begin=2, end=1, generation=[1, 107]), Published(256000, 2, 1)),
    "gemma-3-1b-it": (published(262144, begin=2, end=[1, 106]), GEMMA_3),
    "Phi-3-mini": (published(32064, begin=1, end=32000, generation=[32000, 32001, 32007]), Published(32011, 1, 32000)),
    "gpt2": (published(50257, begin=50256, end=50256), Published(50257, 50256, 50256)),
    "Mistral-7B-v0.3": (published(32768, begin=1, end=2), Published(32768, 1, 2)),
    "OLMo-2-1124-7B": (published(100352, begin=None, end=100257), Published(100278, 100257, 100257)),
    "phi-2": (published(51200, begin=50256, end=50256), Published(50295, 50256, 50256)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_pass_without_a_word(name):
    model, tokenizer = PUBLISHED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokenizer(tokenizer, model, name)


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [("Qwen3-8B", "Llama-2-7b"), ("OLMo-2-1124-7B", "gpt2"), ("gemma-3-1b-it", "gpt2")],
)
def test_another_models_smaller_tokenizer_is_refused(model, tokenizer):
    with pytest.raises(CraneError, match=f"model {model}: its tokenizer has .* tokens, its embedding .* rows, and the"):
        check_tokenizer(PUBLISHED[tokenizer][1], PUBLISHED[model][0], model)


@pytest.mark.parametrize(
    ("begin", "pad", "added"), [(262144, None, 262144), (2, 262144, 262144), (2, None, 5)], ids=["used", "pad", "own"]
)
def test_a_token_that_texts_may_have_needs_a_row(begin, pad, added):
    tokenizer = Published(262145, begin, 1, pad=pad, added=(added,))
    with pytest.raises(CraneError, match="its tokenizer has 262145 tokens, its embedding 262144 rows; put the model's"):
        check_tokenizer(tokenizer, published(262144, begin=2, end=1), "x")


def small(folder, *, rows, begin, end):
    """A model with these rows and special tokens in its configuration, with the small tokenizer (0 and 1)."""
    model = small_model(rows)
    for settings in (model.config, model.generation_config):
        settings.bos_token_id, settings.eos_token_id = begin, end
    model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def test_a_smaller_tokenizer_in_a_directory(tmp_path):
    size = len(small_tokenizer())
    folder = small(tmp_path / "other", rows=size + 500, begin=size + 7, end=[size + 8, size + 9])
    with pytest.raises(CraneError) as error:
        load_model(folder, device="cpu")
    assert str(error.value) == (
        f"model {folder}: its tokenizer has {size} tokens, its embedding {size + 500} rows, and the tokenizer begins "
        f"and ends texts with token 0 and 1, the model's configuration names token {size + 7} and {size + 8} and "
        f"{size + 9}; put the model's own tokenizer there"
    )


def test_other_special_tokens_alone_are_warned_of(tmp_path):
    folder = small(tmp_path / "other", rows=len(small_tokenizer()) + 40, begin=5, end=6)
    with pytest.warns(UserWarning, match="begins and ends texts with token 0 and 1, .* names token 5 and 6; is it the"):
        load_model(folder, device="cpu")


def test_many_rows_without_tokens_are_no_reason(tmp_path):
    folder = small(tmp_path / "same", rows=len(small_tokenizer()) + 500, begin=0, end=[7, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(folder, device="cpu")


# --- base and chat ---

NAMES = ("org/base", "org/chat")


def saved(folder, tokenizer):
    tokenizer.save_pretrained(folder)
    return folder


def test_a_chat_tokenizer_may_have_added_tokens(tmp_path):
    write_model(tmp_path / "base")
    chat = small_tokenizer()
    chat.add_tokens(["<tool>", "<think>"])
    chat.add_special_tokens({"pad_token": "<pad>"})
    check_same_vocabulary(tmp_path / "base", saved(tmp_path / "chat", chat), names=NAMES)
    check_same_vocabulary(tmp_path / "chat", tmp_path / "base", names=NAMES)


@pytest.mark.parametrize(
    ("texts", "vocabulary"), [(TEXTS["vi"], 400), (None, 340)], ids=["other texts", "fewer of the same"]
)
def test_another_vocabulary_is_refused(tmp_path, texts, vocabulary):
    base = saved(tmp_path / "base", small_tokenizer())
    chat = saved(tmp_path / "chat", small_tokenizer(texts, vocabulary=vocabulary))
    expected = r"models org/base and org/chat: their tokenizers differ in \d+ tokens \(the first, \d+: .* and .*\); use"
    with pytest.raises(CraneError, match=expected):
        check_same_vocabulary(base, chat, names=NAMES)


def test_a_tokenizer_that_cannot_be_read(tmp_path):
    base = saved(tmp_path / "base", small_tokenizer())
    chat = saved(tmp_path / "chat", small_tokenizer())
    (chat / "tokenizer.json").write_text("{}")
    with pytest.raises(CraneError, match="chat: its tokenizer cannot be loaded"):
        check_same_vocabulary(base, chat, names=NAMES)
