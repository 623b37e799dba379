"""Texts that are named on the command line: ``--corpus en=en.jsonl``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crane_lib.errors import CraneError
from crane_study.data.user_files import different_texts, read_documents

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

Corpora = dict[str, list[str]]  # texts by language


def named_files(pairs: Sequence[str], *, option: str = "--corpus") -> dict[str, Path]:
    """Read ``language=file`` pairs.

    Raises
    ------
    CraneError : a pair without a language or a file, a language that comes twice, or no such file
    """
    found: dict[str, Path] = {}
    for pair in pairs:
        language, equals, name = pair.partition("=")
        if not (language and equals and name):
            raise CraneError(f"{option} {pair!r}: expected language=file, such as en=en.jsonl")
        if language in found:
            raise CraneError(f"{option} {pair!r}: {language} was given before; join its files into one")
        if not Path(name).is_file():
            raise CraneError(f"{option} {pair!r}: there is no file {name}")
        found[language] = Path(name)
    return found


def read_corpora(files: Mapping[str, Path], *, first: int = 0, skip: int = 0) -> Corpora:
    """Different texts of every file: the first `first` (all if 0) after the first `skip`.

    Raises
    ------
    CraneError : a file that cannot be read, or with fewer than two such texts
    """
    found = {}
    for language, path in files.items():
        texts = different_texts(read_documents(path))
        kept = texts[skip:][: first or None]
        if len(kept) < 2:
            raise CraneError(f"{path}: has {len(texts)} texts; two or more are needed after the first {skip}")
        found[language] = kept
    return found


def encoded(texts: Corpora, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> dict[str, list[np.ndarray]]:
    """Token ids of the texts of every language, cut at `max_length` tokens."""
    from crane_study.data.corpora import token_ids

    found = {language: token_ids(own, tokenizer, max_length=max_length) for language, own in texts.items()}
    for language, documents in found.items():
        if len(documents) < 2:
            raise CraneError(f"corpus {language}: has no two texts of two tokens or more")
    return found


def texts_hash(texts: Sequence[str]) -> str:
    """SHA-256 of texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}\n".encode())
    return digest.hexdigest()
