"""Tokenizers: read as their files say, texts cut at their end, and no token without a row of the embedding."""

import json
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from crane_lib.errors import CraneError
from crane_lib.interventions import export_masked
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.relevance import stream_statistics
from crane_study.data.corpora import token_ids
from crane_study.loading.models import load_model
from crane_study.loading.tokenization import check_round_trip, encode, load_tokenizer
from crane_study.measure.generation import chat_prompt, greedy_answers
from tests.small import TEXTS, small_model, small_tokenizer, write_model

TEXT = TEXTS["vi"][3]


def words_tokenizer():
    """A tokenizer of whole words and bytes without a table of its own for them: the rules of Qwen lose its letters."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(TEXTS["vi"], trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def qwen_folder(folder, tokenizer):
    """A model of type qwen2 with a tokenizer of its own."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes, **ends)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [small_tokenizer, words_tokenizer])
@pytest.mark.parametrize("named", ["as saved", "Qwen2Tokenizer", "LlamaTokenizerFast", None])
def test_a_tokenizer_is_read_as_its_file_says(make, named, tmp_path):
    original = make()
    folder = qwen_folder(tmp_path / "model", original)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if named != "as saved":
        settings["tokenizer_class"] = named
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match=r"transformers \(Qwen2Tokenizer\) splits texts otherwise"):
        model, tokenizer = load_model(folder, device="cpu")
    expected = [found.ids for found in original.backend_tokenizer.encode_batch(TEXTS["vi"])]
    assert encode(tokenizer, TEXTS["vi"]) == expected
    assert [ids.tolist() for ids in token_ids(TEXTS["vi"], tokenizer, max_length=99)] == expected
    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template")
    assert [getattr(tokenizer, name) for name in kept] == [getattr(original, name) for name in kept]
    # also from a checkpoint with a mask
    nothing = NeuronSet({"neuron": [np.array([], dtype=int)] * 2}, {"neuron": 24})
    export_masked(model, tokenizer, nothing, tmp_path / "masked")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert encode(load_tokenizer(tmp_path / "masked"), TEXTS["vi"]) == expected


def test_a_tokenizer_that_is_read_right_stays_as_transformers_reads_it(tmp_path):
    small_model(400).save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode(load_tokenizer(tmp_path), [TEXT]) == encode(small_tokenizer(), [TEXT])


def test_a_tokenizer_that_loses_letters_of_the_texts_is_refused():
    tokenizer = Tokenizer(models.BPE())  # of ASCII letters; it drops all others without a word
    tokenizer.train_from_iterator(TEXTS["en"], trainers.BpeTrainer(vocab_size=200))
    lossy = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    check_round_trip(lossy, TEXTS["en"])
    with pytest.raises(CraneError, match=r"loses \d+ of \d+ letters of the texts \(mostly '\S+', .*\); is it the"):
        token_ids(TEXTS["vi"], lossy, max_length=50)
    for fine in (small_tokenizer(), small_tokenizer(["a b c"], vocabulary=260)):  # bytes hold every letter
        check_round_trip(fine, [*TEXTS["vi"], "แม่น้ำ", "नदी", "", "²½"])


# --- what settings of a tokenizer might do to texts ---


@pytest.mark.parametrize("cut", ["left", "right"])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("in_file", [False, True], ids=["", "switched on in tokenizer.json"])
def test_the_first_tokens_count_whatever_the_tokenizer_says(cut, padding, in_file, tmp_path):
    folder = write_model(tmp_path / "model")
    expected = encode(small_tokenizer(), TEXTS["vi"])
    if in_file:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(5, direction=cut)
        tokenizer.enable_padding(direction=padding, length=90, pad_id=1, pad_token="<|end|>")
        tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    sides = {"truncation_side": cut, "padding_side": padding, "model_max_length": 6}
    path.write_text(json.dumps(json.loads(path.read_text()) | sides))
    model, tokenizer = load_model(folder, device="cpu")
    assert encode(tokenizer, TEXTS["vi"]) == expected
    for longest in (7, 20):
        found = token_ids(TEXTS["vi"], tokenizer, max_length=longest)
        assert [ids.tolist() for ids in found] == [ids[:longest] for ids in expected]
    assert tokenizer(TEXTS["vi"])["input_ids"] == expected  # as in the README's example
    assert chat_prompt(tokenizer, TEXT) == expected[3]
    found = stream_statistics(model, tokenizer(TEXTS["vi"])["input_ids"], max_length=9)
    assert found.corpus == stream_statistics(model, [ids[:9] for ids in expected]).corpus


@pytest.mark.parametrize("template", ["$A", "<|begin|> $A", "$A <|end|>", "<|begin|> $A <|end|>"])
@pytest.mark.parametrize("setting", [True, False])
def test_tokens_that_begin_and_end_texts_are_those_of_the_file(template, setting, tmp_path):
    folder = write_model(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        template, special_tokens=[("<|begin|>", 0), ("<|end|>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": setting, "add_eos_token": setting}))
    whole = tokenizer.encode(TEXT).ids
    found = load_model(folder, device="cpu")[1]
    assert encode(found, [TEXT]) == [whole]
    for longest in (5, 200):
        assert token_ids([TEXT], found, max_length=longest)[0].tolist() == whole[:longest]


# --- tokens without a row ---


def with_added(folder, *, pad):
    """A model whose tokenizer has one token more than the embedding has rows; `pad` if it is for padding."""
    write_model(folder)
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"} if pad else {"additional_special_tokens": ["[PAD]"]})
    assert tokenizer.convert_tokens_to_ids("[PAD]") == len(small_tokenizer()) == len(tokenizer) - 1
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", [True, False])
def test_a_token_that_the_embedding_lacks_is_not_needed(pad, tmp_path):
    plain, tokenizer = load_model(write_model(tmp_path / "plain"), device="cpu")
    model, with_pad = load_model(with_added(tmp_path / "added", pad=pad), device="cpu")
    documents = token_ids(TEXTS["vi"], with_pad, max_length=40)
    assert [ids.tolist() for ids in documents] == [ids[:40] for ids in encode(tokenizer, TEXTS["vi"])]
    assert with_pad.pad_token_id == with_pad.eos_token_id
    expected = document_nll(plain, documents, token_budget=200)[0]
    np.testing.assert_array_equal(document_nll(model, documents, token_budget=200)[0], expected)
    prompts = [document[:length].tolist() for document, length in zip(documents, (3, 9, 5), strict=False)]
    found = [greedy_answers(*both, prompts, max_new_tokens=4) for both in ((model, with_pad), (plain, tokenizer))]
    assert found[0] == found[1]


def test_its_text_is_refused_where_it_occurs(tmp_path):
    model, tokenizer = load_model(with_added(tmp_path / "added", pad=True), device="cpu")
    documents = [ids.tolist() for ids in token_ids([TEXT, f"{TEXT} [PAD]"], tokenizer, max_length=99)]
    missing = len(tokenizer) - 1
    with pytest.raises(CraneError, match=rf"document 1: has token {missing}, but the model knows 0 to {missing - 1};"):
        document_nll(model, documents, token_budget=200)
    with pytest.raises(CraneError, match=rf"document 1: has token {missing}, but the model"):
        stream_statistics(model, documents)
    with pytest.raises(CraneError, match=rf"question 0: has token {missing}"):
        greedy_answers(model, tokenizer, [chat_prompt(tokenizer, "[PAD]?")], max_new_tokens=2)
