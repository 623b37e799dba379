"""Documents of a split as tokens, all of them or a sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


def sample(count: int, *, of: int, generator: np.random.Generator) -> list[int]:
    """Numbers of so many items out of `of`, or of all of them; sorted."""
    return sorted(int(i) for i in generator.choice(of, size=min(count, of), replace=False))


def sampled_documents(
    corpus: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    languages: Sequence[str],
    documents: int,
    max_length: int,
    random_seed: int,
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[int]]]:
    """A sample of each language's held-out documents as tokens, and their numbers among all of them."""
    frame = pd.read_parquet(corpus / "documents.parquet")
    tokens, numbers = {}, {}
    for place, language in enumerate(languages):
        found = tokenized(frame, tokenizer, split="perplexity", language=language, max_length=max_length)
        numbers[language] = sample(documents, of=len(found), generator=np.random.default_rng([random_seed, place]))
        tokens[language] = [found[i] for i in numbers[language]]
    return tokens, numbers
