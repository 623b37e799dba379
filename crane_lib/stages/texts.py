"""Documents of a split as tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from crane_lib.errors import CraneError

_SHORTEST = 2  # tokens of a document: below that there is nothing to predict
_AT_ONCE = 512  # documents whose tokens are Python objects at one time


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[np.ndarray]:
    """Token ids of texts, int64 arrays cut at `max_length`; those under two tokens are left out."""
    kept: list[np.ndarray] = []
    for start in range(0, len(texts), _AT_ONCE):
        encoded = tokenizer(list(texts[start : start + _AT_ONCE]), truncation=True, max_length=max_length)["input_ids"]
        kept += [np.array(ids, dtype=np.int64) for ids in encoded if len(ids) >= _SHORTEST]
    return kept


def tokenized(
    frame: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, *, split: str, language: str, max_length: int
) -> list[np.ndarray]:
    """Token ids of a language's documents of a split, as `token_ids` gives them.

    Raises
    ------
    CraneError : nothing is left
    """
    chosen = frame[(frame["split"] == split) & (frame["language"] == language)]
    kept = token_ids(chosen["text"].tolist(), tokenizer, max_length=max_length)
    if not kept:
        raise CraneError(f"corpus: has no {split} documents in {language!r}; give it more text")
    return kept
