"""Documents of a split as tokens."""

from __future__ import annotations

import pandas as pd
from transformers import PreTrainedTokenizerBase

from crane_lib.errors import CraneError


def tokenized(
    frame: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, *, split: str, language: str, max_length: int
) -> list[list[int]]:
    """Token ids of a language's documents of a split, cut at `max_length`; those under two tokens are left out.

    Raises
    ------
    CraneError : nothing is left
    """
    chosen = frame[(frame["split"] == split) & (frame["language"] == language)]
    texts = chosen["text"].tolist()
    encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"] if texts else []
    kept = [list(tokens) for tokens in encoded if len(tokens) >= 2]
    if not kept:
        raise CraneError(f"corpus: has no {split} documents in {language!r}; give it more text")
    return kept
