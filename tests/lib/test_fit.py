"""Tokenizers that are the model's own, and those that are not."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from crane_lib.errors import CraneError
from crane_lib.models import check_same_vocabulary, check_tokenizer, load_model
from tests.small import TEXTS, small_model, small_tokenizer, write_model


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
        check_tokenizer(tokenizer, model, Path(name))


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [("Qwen3-8B", "Llama-2-7b"), ("OLMo-2-1124-7B", "gpt2"), ("gemma-3-1b-it", "gpt2")],
)
def test_another_models_smaller_tokenizer_is_refused(model, tokenizer):
    with pytest.raises(CraneError, match=f"model {model}: its tokenizer has .* tokens, its embedding .* rows, and the"):
        check_tokenizer(PUBLISHED[tokenizer][1], PUBLISHED[model][0], Path(model))


@pytest.mark.parametrize(("begin", "pad"), [(262144, None), (2, 262144)])
def test_an_added_token_without_a_row_that_texts_would_have(begin, pad):
    tokenizer = Published(262145, begin, 1, pad=pad, added=(262144,))
    with pytest.raises(CraneError, match="its tokenizer has 262145 tokens, its embedding 262144 rows; put the model's"):
        check_tokenizer(tokenizer, published(262144, begin=2, end=1), Path("x"))


def test_a_token_without_a_row_that_was_not_added():
    with pytest.raises(CraneError, match="its tokenizer has 262145 tokens, its embedding 262144 rows"):
        check_tokenizer(Published(262145, 2, 1, added=(5,)), published(262144, begin=2, end=1), Path("x"))


def small(folder, *, rows, begin, end):
    """A model with these rows and special tokens in its configuration, beside the small tokenizer (0 and 1)."""
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


# --- base and chat -----------------------------------------------------------------------------------------------

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
