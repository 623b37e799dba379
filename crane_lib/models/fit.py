"""Whether a tokenizer is the model's own, and whether two models share theirs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError

# Rows of an embedding without a token. Published models have up to 905 of 51,200 (phi-2, 1.8 %) and 2,385 of 102,400
# (DeepSeek, 2.3 %); a small model's rows may be filled up to a multiple of 64.
_PADDED_SHARE, _PADDED_ROWS = 0.05, 64


def _ids(*given: Any) -> set[int]:
    """Token ids given as numbers, lists of numbers or None."""
    listed = [value if isinstance(value, list | tuple) else [value] for value in given]
    return {number for value in listed for number in value if number is not None}


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, path: Path) -> None:
    """Make sure that a tokenizer can be the model's own.

    Added tokens may lie beyond the embedding as long as no text is read or padded with them (Gemma 3 has one for
    pictures in its models without eyes). Begin and end tokens that the tokenizer names and the model does not may have
    a good reason, such as a chat format, and are warned of; with far more rows than tokens it is another model's.

    Raises
    ------
    CraneError : it has tokens that the embedding has no rows for, or is another model's
    """
    embedding: Any = model.get_input_embeddings()
    rows: int = embedding.num_embeddings
    size = f"its tokenizer has {len(tokenizer)} tokens, its embedding {rows} rows"
    if _beyond(tokenizer, rows):
        raise CraneError(f"model {path}: {size}; put the model's own tokenizer beside it")
    own = _ids(tokenizer.bos_token_id, tokenizer.eos_token_id)
    named: set[int] = set()
    for settings in (model.config, model.generation_config):
        named |= _ids(getattr(settings, "bos_token_id", None), getattr(settings, "eos_token_id", None))
    if not own or not named or own & named:
        return
    differ = f"the tokenizer begins and ends texts with {_told(own)}, the model's configuration names {_told(named)}"
    both = tokenizer.bos_token_id is not None and tokenizer.eos_token_id is not None
    if both and rows - len(tokenizer) > max(_PADDED_ROWS, _PADDED_SHARE * rows):
        raise CraneError(f"model {path}: {size}, and {differ}; put the model's own tokenizer beside it")
    warnings.warn(f"model {path}: {differ}; is it the model's own?", stacklevel=3)


def _beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> bool:
    """Whether tokens that texts may hold have no row."""
    if len(tokenizer) <= rows:
        return False
    used = _ids(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    added = set(tokenizer.get_added_vocab().values()) - used
    return any(number >= rows and number not in added for number in tokenizer.get_vocab().values())


def _told(ids: set[int]) -> str:
    return "token " + " and ".join(map(str, sorted(ids)))


def check_same_vocabulary(base: Path, chat: Path, *, names: tuple[str, str], trust_remote_code: bool = False) -> None:
    """Make sure that a chat model has the tokens of its base model; either may have added some.

    Sets are masked in both models and texts are read by both, so a token must be the same in both.

    Parameters
    ----------
    names : of the two models, for the message

    Raises
    ------
    CraneError : a token that neither model added is another one in the other, or missing there
    """
    vocabularies, added = [], set[int]()
    for path in (base, chat):
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CraneError(f"model {path}: its tokenizer cannot be loaded ({reason})") from error
        vocabularies.append({number: token for token, number in tokenizer.get_vocab().items()})
        added |= set(tokenizer.get_added_vocab().values())
    one, other = vocabularies
    differing = sorted(n for n in (one.keys() | other.keys()) - added if one.get(n) != other.get(n))
    if differing:
        first = differing[0]
        raise CraneError(
            f"models {names[0]} and {names[1]}: their tokenizers differ in {len(differing)} tokens (the first, "
            f"{first}: {one.get(first)!r} and {other.get(first)!r}); use a chat model made from the base model"
        )
