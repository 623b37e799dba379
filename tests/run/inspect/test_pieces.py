import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crane_run.inspect.texts import pieces_of, whole_spans
from tests.small import small_tokenizer

TOKENIZER = small_tokenizer()


def read(text):
    """Pieces of a text whose tokens carry 1, 2, 4, ... as relevance, so that sums tell which were joined."""
    encoded = TOKENIZER(text, return_offsets_mapping=True)
    values = 2.0 ** np.arange(len(encoded["input_ids"]))
    names = TOKENIZER.convert_ids_to_tokens(encoded["input_ids"])
    fires = np.arange(len(values)) % 2 == 1
    return values, pieces_of(text, encoded["offset_mapping"], names, np.stack([values, -values, fires]))


EXAMPLES = ["饕餮纹在桥上", "Ở thị trấn", unicodedata.normalize("NFD", "Ở thị trấn"), "a 👩‍👩‍👧 b", "Việt"]


@pytest.mark.parametrize("text", EXAMPLES)
def test_characters_are_never_cut(text):
    _, pieces = read(text)
    shown = [piece.text for piece in pieces if not piece.special]
    assert "".join(shown) == unicodedata.normalize("NFC", text)
    assert "\ufffd" not in "".join(shown)
    assert not any(unicodedata.combining(part[0]) for part in shown)


def test_the_bytes_of_a_character_are_one_piece():
    values, pieces = read("饕")
    assert [piece.special for piece in pieces] == [True, False]
    character = pieces[1]
    assert (character.text, character.tokens) == ("饕", 3)
    assert character.relevance == values[1:].sum()
    assert character.activation == -values[3]  # the largest in size
    assert character.fires  # one of its tokens does


@given(st.text(max_size=30))
def test_any_text_comes_back_whole(text):
    values, pieces = read(text)
    shown = "".join(piece.text for piece in pieces if not piece.special)
    assert unicodedata.normalize("NFC", shown) == unicodedata.normalize("NFC", text)
    assert sum(piece.tokens for piece in pieces) == len(values)
    assert sum(piece.relevance for piece in pieces) == values.sum()


def test_spaces_that_a_tokenizer_drops_come_back_without_value():
    found = pieces_of("a  b", [(0, 0), (0, 1), (3, 4)], ["<s>", "a", "b"], np.ones((3, 3)))
    assert [(piece.text, piece.tokens) for piece in found] == [("<s>", 1), ("a", 1), ("  ", 0), ("b", 1)]
    assert found[2].relevance == 0


def test_a_mark_alone_joins_the_letter_before_it():
    text = "e\u0323\u0302n"
    assert whole_spans(text, [(0, 1), (1, 2), (2, 3), (3, 4)]) == [(0, 3, [0, 1, 2]), (3, 4, [3])]
