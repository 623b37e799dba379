"""Reading tokenizers as their files say, and checking that they give back the texts that they are given."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from crane_lib.errors import CraneError

# Scripts, marks, numbers, white space and code: what rules of splitting texts differ in.
_SAMPLE = (
    "In 1987, the river rose 3.5 metres; it's what they'd feared.",
    "Ở thị trấn số 12, con sông chảy qua những cối xay cũ.",
    "这条河在1987年上涨了三米半，桥被冲走了。 川の水が増えた。 강물이 불어났다.",
    "แม่น้ำไหลผ่านหมู่บ้าน नदी गाँव से होकर बहती है। নদীটি গ্রামের",
    "يمر النهر بالمدينة القديمة، עיר ליד הנהר",
    "Река течёт через город. Ο ποταμός περνά. Größe, façade, ñandú",
    "  two  spaces\tand\n\n  lines\r\n  def f(x): return x**2  # ok!",
)
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_CHECKED_TEXTS, _CHECKED_CHARACTERS = 64, 1000
_LOST = 0.01  # largest share of the letters of texts that a tokenizer may lose


def load_tokenizer(path: str | os.PathLike[str], *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory, as its tokenizer.json says.

    For some types of models transformers takes only the vocabulary from that file and splits texts by rules of its own.
    Where it would read a sample otherwise, the file as it stands is taken, with a warning.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    file = Path(path) / "tokenizer.json"
    if not file.is_file() or not type(tokenizer).__module__.startswith("transformers."):
        return tokenizer
    written = Tokenizer.from_file(str(file))
    if _reads_as(tokenizer, written):
        return tokenizer
    plain = PreTrainedTokenizerFast.from_pretrained(path)
    for name in _NAMES:  # which a class of transformers may know, and the file not
        value = getattr(tokenizer, name, None)
        if getattr(plain, name, None) is None and value in plain.get_vocab():
            setattr(plain, name, value)
    differs = f"model {path}: transformers ({type(tokenizer).__name__}) splits texts otherwise than tokenizer.json says"
    if not _reads_as(plain, written):
        raise CraneError(f"{differs}; save the tokenizer again with the version of transformers that made it")
    warnings.warn(f"{differs}; the file is followed", stacklevel=3)
    return plain


def _reads_as(tokenizer: PreTrainedTokenizerBase, written: Tokenizer) -> bool:
    written.no_truncation()
    written.no_padding()
    return encode(tokenizer, _SAMPLE) == [found.ids for found in written.encode_batch(list(_SAMPLE))]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """Token ids of whole texts, whatever the tokenizer's settings say about padding and cutting."""
    whole = {"truncation": False, "padding": False, "verbose": False, **options}
    return tokenizer(list(texts), **whole)["input_ids"] if len(texts) else []


def check_round_trip(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Refuse a tokenizer that loses more than one in a hundred letters and digits of the beginnings of some texts.

    Case, accents written apart and forms of the same letter do not count.
    """
    parts = [text[:_CHECKED_CHARACTERS] for text in texts[:_CHECKED_TEXTS]]
    wanted, lost = 0, Counter[str]()
    for part, ids in zip(parts, encode(tokenizer, parts, add_special_tokens=False), strict=True):
        letters = _letters(part)
        known = [token for token in ids if token != tokenizer.unk_token_id]
        lost += letters - _letters(str(tokenizer.decode(known)))
        wanted += letters.total()
    if lost.total() > _LOST * wanted:
        share, worst = f"{lost.total()} of {wanted}", ", ".join(repr(letter) for letter, _count in lost.most_common(3))
        raise CraneError(f"the tokenizer loses {share} letters of the texts (mostly {worst}); is it the model's own?")


def _letters(text: str) -> Counter[str]:
    """Count letters, digits and combining marks, in one form."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return Counter(letter for letter in folded if letter.isalnum() or unicodedata.category(letter).startswith("M"))
