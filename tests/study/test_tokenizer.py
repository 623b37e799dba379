import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from crane_study.training import ASSISTANT, BEGIN, CHAT_TEMPLATE, END, USER, train_tokenizer
from tests.small import TEXTS

CHINESE = ["俾路支语用阿拉伯文书写。", "日本的货币是日元，2024年。"]
DOCUMENTS = [*TEXTS["en"], *TEXTS["vi"], *CHINESE * 20]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(DOCUMENTS, vocabulary=500, max_length=64)


def test_the_special_tokens_come_first(tokenizer):
    again = train_tokenizer(DOCUMENTS, vocabulary=500, max_length=64)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == [BEGIN, END, USER, ASSISTANT]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 1)
    assert len(tokenizer) <= 500
    assert tokenizer.model_max_length == 64


def test_every_encoding_begins_with_the_begin_token_once(tokenizer):
    for text in ("", "In the town", "日本"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[1:]


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=30))
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_chinese_characters_digits_and_punctuation_are_separate_and_a_space_belongs_to_the_next_word(tokenizer):
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    pieces = splitter.pre_tokenize_str("日元，20 old mills.")
    assert len(pieces) == len(["日", "元", "，", "2", "0", " old", " mills", "."])
    for text in CHINESE:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(tokens) >= len(text)
    ids = tokenizer("In town number", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in ids] == ["In", " town", " number"]


def test_it_comes_back_from_its_directory(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS["vi"][:3], *CHINESE):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.bos_token_id, again.pad_token_id, len(again)) == (0, 1, len(tokenizer))


def test_a_conversation_in_the_template(tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|begin|><|user|> Q?<|end|><|assistant|> A.<|end|>"
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|begin|><|user|> Q?<|end|><|assistant|>"
    assert tokenizer(asked, add_special_tokens=False)["input_ids"][:2] == [0, 2]
