import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.data import corpora as texts
from crane_study.data.corpora import token_ids, tokenized
from tests.small import TEXTS, small_tokenizer

FRAME = pd.DataFrame(
    [
        {"split": split, "language": language, "text": text}
        for split in ("relevance", "perplexity")
        for language, texts in TEXTS.items()
        for text in ["", *texts[:4]]
    ]
)


def test_documents_of_one_split_and_language_cut_and_without_the_empty_ones():
    tokenizer = small_tokenizer()
    found = tokenized(FRAME, tokenizer, split="relevance", language="vi", max_length=9)
    assert [document.tolist() for document in found] == [tokenizer(text)["input_ids"][:9] for text in TEXTS["vi"][:4]]
    assert {document.dtype for document in found} == {np.dtype(np.int64)}


def test_many_texts_are_taken_in_parts(monkeypatch):
    tokenizer = small_tokenizer()
    whole = token_ids(TEXTS["en"], tokenizer, max_length=20)
    monkeypatch.setattr(texts, "_AT_ONCE", 7)
    parts = token_ids(TEXTS["en"], tokenizer, max_length=20)
    assert [document.tolist() for document in parts] == [document.tolist() for document in whole]
    assert len(parts) == len(TEXTS["en"])


def test_a_document_that_fits_is_whole():
    tokenizer = small_tokenizer()
    found = tokenized(FRAME, tokenizer, split="perplexity", language="en", max_length=1000)
    assert [tokenizer.decode(document[1:]) for document in found] == TEXTS["en"][:4]


@pytest.mark.parametrize(
    ("split", "language", "max_length"), [("train", "en", 9), ("relevance", "de", 9), ("relevance", "en", 1)]
)
def test_nothing_is_left(split, language, max_length):
    with pytest.raises(CraneError, match=f"corpus: has no {split} documents in '{language}'; give it more text"):
        tokenized(FRAME, small_tokenizer(), split=split, language=language, max_length=max_length)
