"""Texts that say the same in other letters, and texts whose words are in another order."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Callable

import numpy as np
from pypinyin import lazy_pinyin

_PUNCTUATION = str.maketrans("，。、；：？！（）“”‘’《》「」", ',.,;:?!()""\'\'<>""')
_UNSPACED = ("zh", "ja", "th", "lo", "km", "my")  # languages that write no spaces between words


def _pinyin(text: str) -> str:
    """Chinese as syllables of pinyin without tones, between spaces, and with Latin punctuation."""
    return " ".join(part.strip() for part in lazy_pinyin(text.translate(_PUNCTUATION)))


def _plain(text: str) -> str:
    """Vietnamese without its diacritics; đ becomes d."""
    letters = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D"))
    return unicodedata.normalize("NFC", "".join(letter for letter in letters if not unicodedata.combining(letter)))


ROMANISED: dict[str, Callable[[str], str]] = {"zh": _pinyin, "vi": _plain}


def romanised(text: str, language: str) -> str:
    """Return a text in the letters of English: Chinese and Vietnamese are changed, other languages are not."""
    return ROMANISED[language](text) if language in ROMANISED else text


def shuffled(text: str, language: str) -> str:
    """Return a text with its words in a random order, the same each time; characters where no spaces are written."""
    words = list("".join(text.split())) if language in _UNSPACED else text.split()
    order = np.random.default_rng(zlib.crc32(text.encode())).permutation(len(words))
    return ("" if language in _UNSPACED else " ").join(words[place] for place in order)
