"""Loading models: parts, precision, devices, and tokenizers that are the model's own."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from safetensors.torch import load_file, save_file

from crane_lib.errors import CraneError
from crane_lib.relevance import document_relevance
from crane_study.loading import models
from crane_study.loading.models import (
    check_placement,
    check_same_vocabulary,
    check_tokenizer,
    load_model,
    model_directory,
    pick_device,
)
from tests.lib.relevance.tiny import hook_count
from tests.small import TEXTS, small_model, small_tokenizer


def test_a_model_is_loaded_for_inference(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model, tokenizer = load_model(folder, device="cpu")
    assert tokenizer.pad_token == "<|end|>"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    ids = torch.tensor([[0, 7, 9]])
    assert torch.equal(model(ids).logits, small_model(len(tokenizer))(ids).logits)


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


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", r"has no weights \(\*\.safetensors\)"),
        ("tokenizer*", r"has no tokenizer \(tokenizer\.json\)"),
        ("*", "no such directory"),
    ],
)
def test_a_missing_part_is_named(folder, missing, words):
    for path in list(folder.glob(missing)):
        path.unlink()
    if missing == "*":
        folder.rmdir()
    with pytest.raises(CraneError, match=f"model .*model: {words}"):
        load_model(folder)
    folder.mkdir(exist_ok=True)
    assert model_directory(folder.parent) == folder
    assert model_directory(folder) == folder


def change_weights(path, name, value):
    """Put a tensor in the place of another, or drop that one."""
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors | ({} if value is None else {name: value}), path, {"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("name", "break_it", "words"),
    [
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:5000]), "cannot be loaded"),
        ("model.safetensors", lambda path: path.write_bytes(b""), "cannot be loaded"),
        (
            "model.safetensors",
            lambda path: change_weights(path, UP, torch.zeros(25, 16)),
            f"its weights have {UP} as (25, 16), config.json as (24, 16)",
        ),
        ("model.safetensors", lambda path: change_weights(path, UP, None), f"its weights lack {UP} (1 in all)"),
        ("config.json", lambda path: path.write_text("{half"), "cannot be loaded"),
        ("config.json", lambda path: path.write_text("{}"), "cannot be loaded"),
        ("config.json", lambda path: path.write_text('{"model_type": "no-such-model"}'), "cannot be loaded"),
        ("tokenizer.json", lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be loaded"),
        ("tokenizer.json", lambda path: path.write_text("{}"), "cannot be loaded"),
    ],
)
def test_an_unreadable_part_is_one_line(folder, name, break_it, words):
    break_it(folder / name)
    with pytest.raises(CraneError) as error:
        load_model(folder, device="cpu")
    assert str(error.value).startswith(f"model {folder}: {words}")
    assert "\n" not in str(error.value)
    if name == "tokenizer.json":
        with pytest.raises(CraneError, match="model: its tokenizer cannot be loaded"):
            check_same_vocabulary(folder, folder, names=("org/base", "org/chat"))


NO_CUDA = "no CUDA GPU is visible to torch"
NOT_HERE = "cannot be computed on here; there are cpu"


@pytest.mark.parametrize(
    ("name", "gpus", "rank", "expected"),
    [
        ("cpu", 0, None, "cpu"),
        ("auto", 0, None, "cpu"),
        ("auto", 2, None, "cuda"),
        ("cuda:1", 2, None, "cuda:1"),
        ("auto", 2, "1", "cuda:1"),  # each process of torchrun takes a GPU of its own
        ("cuda", 2, "1", "cuda:1"),
        ("cuda:0", 2, "1", "cuda:0"),
        ("cpu", 2, "1", "cpu"),
        ("auto", 2, "2", "process 2 of this machine has no GPU of its own: 2 are visible"),
        ("cuda:9", 2, None, "device 'cuda:9': no such GPU; there are cpu, cuda:0, cuda:1"),
        ("cuda:1", 0, None, f"device 'cuda:1': {NO_CUDA}"),
        ("quantum", 0, None, "device 'quantum': not a device; use auto, cpu, cuda or map"),
        *((name, 0, None, f"device '{name}': {NOT_HERE}") for name in ("meta", "vulkan", "mtia", "mps")),
    ],
)
def test_devices(name, gpus, rank, expected, monkeypatch):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine computes on mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    if " " not in expected:
        assert pick_device(name) == torch.device(expected)
        return
    with pytest.raises(CraneError, match=f"^{expected}"):
        pick_device(name)


# --- one model over several devices ---


def test_a_model_in_parts_needs_gpus_that_hold_it_and_one_process_per_machine(original, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CraneError, match=f"device 'map': {NO_CUDA}"):
        load_model(original, device="map")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(CraneError, match="takes all GPUs of a machine, but 4 processes were started on it"):
        load_model(original, device="map")
    model = small_model(400)
    check_placement(model, "x")  # not in parts at all
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "lm_head": 1}
    check_placement(model, "x")
    model.hf_device_map |= {"model.layers.1": "disk", "lm_head": "cpu"}
    with pytest.raises(CraneError, match=r"does not fit on the GPUs: 2 of its 4 parts .* \(the first: lm_head\)"):
        check_placement(model, "x")


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
        (name, sorted(vars(module)), id(vars(module).get("forward")), module.training)
        for name, module in model.named_modules()
    ]
    return modules, hook_count(model), [parameter.requires_grad for parameter in model.parameters()]


# --- tokenizers ---


class Published:
    """Sizes and special tokens of a published tokenizer; `added` of its tokens were added."""

    def __init__(self, size, begin, end, *, pad=None, added=()):
        self.size, self.bos_token_id, self.eos_token_id, self.pad_token_id = size, begin, end, pad
        self.get_added_vocab = lambda: {f"token {number}": number for number in added}

    def __len__(self):
        return self.size

    def get_vocab(self):
        return {f"token {number}": number for number in range(self.size)}


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
    "Qwen2.5, an end of turn that config.json does not name": (
        published(151936, begin=151643, end=151643, generation=[151645, 151643]),
        Published(151665, None, 151645),
    ),
    "Qwen3-8B": (published(151936, begin=151643, end=151645), Published(151669, None, 151645)),
    "gemma-2-2b-it": (published(256000, begin=2, end=1, generation=[1, 107]), Published(256000, 2, 1)),
    "gemma-3-1b-it": (published(262144, begin=2, end=[1, 106]), GEMMA_3),
    "Phi-3-mini": (published(32064, begin=1, end=32000, generation=[32000, 32001, 32007]), Published(32011, 1, 32000)),
    "gpt2": (published(50257, begin=50256, end=50256), Published(50257, 50256, 50256)),
    "OLMo-2-1124-7B": (published(100352, begin=None, end=100257), Published(100278, 100257, 100257)),
    "phi-2": (published(51200, begin=50256, end=50256), Published(50295, 50256, 50256)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_pass_without_a_word(name):
    model, tokenizer = PUBLISHED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokenizer(tokenizer, model, name)


def test_a_smaller_tokenizer_of_another_model_or_one_with_tokens_without_a_row_is_refused():
    for name, other in [("Qwen3-8B", "Llama-2-7b"), ("OLMo-2-1124-7B", "gpt2"), ("gemma-3-1b-it", "gpt2")]:
        with pytest.raises(
            CraneError, match=f"model {name}: its tokenizer has .* tokens, its embedding .* rows, and the"
        ):
            check_tokenizer(PUBLISHED[other][1], PUBLISHED[name][0], name)
    # The last token is in use, or was not added.
    for begin, pad, added in [(262144, None, 262144), (2, None, 5)]:
        tokenizer = Published(262145, begin, 1, pad=pad, added=(added,))
        with pytest.raises(CraneError, match="has 262145 tokens, its embedding 262144 rows; put the model's own"):
            check_tokenizer(tokenizer, PUBLISHED["gemma-3-1b-it"][0], "x")


def small(folder, *, rows, begin, end):
    """A model with these rows and special tokens in its configuration, with the small tokenizer (0 and 1)."""
    model = small_model(rows)
    for settings in (model.config, model.generation_config):
        settings.bos_token_id, settings.eos_token_id = begin, end
    model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def test_tokenizers_in_a_directory(tmp_path):
    size = len(small_tokenizer())
    folder = small(tmp_path / "smaller", rows=size + 500, begin=size + 7, end=[size + 8, size + 9])
    with pytest.raises(CraneError) as error:
        load_model(folder, device="cpu")
    assert str(error.value) == (
        f"model {folder}: its tokenizer has {size} tokens, its embedding {size + 500} rows, and the tokenizer begins "
        f"and ends texts with token 0 and 1, the model's configuration names token {size + 7} and {size + 8} and "
        f"{size + 9}; put the model's own tokenizer there"
    )
    folder = small(tmp_path / "other special tokens", rows=size + 40, begin=5, end=6)
    with pytest.warns(UserWarning, match="begins and ends texts with token 0 and 1, .* names token 5 and 6; is it the"):
        load_model(folder, device="cpu")
    folder = small(tmp_path / "many rows without tokens", rows=size + 500, begin=0, end=[7, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(folder, device="cpu")


# --- base and chat ---


def compared_with_small(folder, tokenizer):
    """Compare the vocabulary of the small tokenizer with this one's, both ways."""
    small_tokenizer().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "chat")
    check_same_vocabulary(folder / "chat", folder / "base", names=("org/chat", "org/base"))
    check_same_vocabulary(folder / "base", folder / "chat", names=("org/base", "org/chat"))


def test_a_chat_tokenizer_may_have_added_tokens(tmp_path):
    chat = small_tokenizer()
    chat.add_tokens(["<tool>", "<think>"])
    chat.add_special_tokens({"pad_token": "<pad>"})
    compared_with_small(tmp_path, chat)


@pytest.mark.parametrize(
    ("texts", "vocabulary"), [(TEXTS["vi"], 400), (None, 340)], ids=["other texts", "fewer of the same"]
)
def test_another_vocabulary_is_refused(tmp_path, texts, vocabulary):
    expected = r"models org/chat and org/base: their tokenizers differ in \d+ tokens \(the first, \d+: .* and .*\); use"
    with pytest.raises(CraneError, match=expected):
        compared_with_small(tmp_path, small_tokenizer(texts, vocabulary=vocabulary))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named_when_a_model_is_loaded(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    words = r"model\.layers\.1\.mlp\.up_proj\.weight has NaN or infinity \(1 of its 384 values\)"
    with pytest.raises(CraneError, match=words):
        load_model(folder, device="cpu")


def test_large_weights_whose_sum_overflows_are_finite():
    model = small_model(50)
    model.model.embed_tokens.weight.data.fill_(3e38)
    models.check_finite(model, "m")


def test_a_model_that_does_not_fit_in_memory_is_refused_before_it_is_read(folder, monkeypatch):
    count = sum(values.numel() for values in load_file(folder / "model.safetensors").values())
    monkeypatch.setattr(models.psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * count))
    assert load_model(folder, device="cpu")[0].dtype == torch.float32
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", None)
    words = rf"its {count:,} values in float64 take 0\.0 GB, and 0\.0 GB of memory are free on cpu; use dtype: bfloat16"
    with pytest.raises(CraneError, match=words):
        load_model(folder, device="cpu", dtype="float64")
