"""Texts of a corpus, chosen from a stream in one pass: without copies and short ones, the first ones or a sample."""

from __future__ import annotations

import hashlib
import heapq
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any
from zlib import crc32

from crane_lib.errors import CraneError

LEFT_OUT = ("empty", "copies", "short", "near_copies")
_SHINGLE = 5  # characters, so that languages without spaces have them, too
_PERMUTATIONS, _HASH_SEED = 128, 1
_AT_ONCE = 4096  # shingles that are hashed together
_HIGHEST = 0.95  # share that the table's candidates are chosen for
_FALSE = (0.1, 0.9)  # weights of false and of missed candidates, for the former are looked at again


def _option(default: float, told: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": told, **limits})


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Choice of texts; every field is an option of the commands that read texts."""

    skip: int = _option(0, "First texts of each language to leave out: those of the selection.", min=0)
    documents: int = _option(0, "First N texts of each language after those (0: all).", metavar="N", min=0)
    sample_texts: int = _option(0, "N of these texts, drawn at random (0: all).", metavar="N", min=0)
    random_seed: int = _option(0, "Of what is drawn.", min=0)
    min_length: int = _option(0, "Shorter texts are left out, in characters.", metavar="N", min=0)
    near_copies: float = _option(
        0.0, "Leave out texts that share so much with an earlier one (0: keep them; 0.8 is usual).", min=0.0, max=1.0
    )


@dataclass(frozen=True)
class ChosenTexts:
    """Texts in the order of their source, and how many were `read` and left out as `LEFT_OUT` says."""

    texts: list[str]
    counts: dict[str, int]


def choose_texts(texts: Iterable[str], options: CorpusOptions | None = None) -> ChosenTexts:
    """Choose texts of a stream.

    Texts without a character, those that repeat an earlier one, also in another Unicode form (NFC, NFD), short ones and
    near copies are left out first; then `skip` and `documents` count. A sample keeps the texts with the smallest of
    random tags, so that every set of texts has the same chance, whatever the length of the stream, and no more texts
    are held than are drawn. The tag of a place is the same in every language: parallel texts stay together.
    """
    options, counts = options or CorpusOptions(), Counter(dict.fromkeys(("read", *LEFT_OUT), 0))
    tags = random.Random(options.random_seed)
    different = _different(((tags.random(), text) for text in texts), options, counts)
    wanted = islice(different, options.skip, options.skip + options.documents if options.documents else None)
    numbered = ((tag, number, text) for number, (tag, text) in enumerate(wanted))
    kept = heapq.nsmallest(options.sample_texts, numbered) if options.sample_texts else list(numbered)
    return ChosenTexts([text for _tag, _number, text in sorted(kept, key=itemgetter(1))], dict(counts))


def _different(
    tagged: Iterable[tuple[float, str]], options: CorpusOptions, counts: Counter[str]
) -> Iterator[tuple[float, str]]:
    """Leave out empty texts, copies, short texts and near copies, and count them."""
    seen: set[bytes] = set()
    is_near = near_copy(options.near_copies) if options.near_copies else None
    for tag, text in tagged:
        counts["read"] += 1
        form = unicodedata.normalize("NFC", text)
        if not form.strip():
            counts["empty"] += 1
        elif (digest := hashlib.sha256(form.encode()).digest()[:16]) in seen:
            counts["copies"] += 1
        else:
            seen.add(digest)
            if len(form) < options.min_length:
                counts["short"] += 1
            elif is_near is not None and is_near(form):
                counts["near_copies"] += 1
            else:
                yield tag, text


def shingles(text: str) -> set[str]:
    """Stretches of five characters of a text; case and white space do not count."""
    plain = re.sub(r"\s+", " ", text.casefold()).strip()
    return {plain[start : start + _SHINGLE] for start in range(max(1, len(plain) - _SHINGLE + 1))}


def near_copy(share: float) -> Callable[[str], bool]:
    """Return a test whether a text shares `share` of its shingles (Jaccard index) with one that was tested before.

    The index is estimated by MinHash (Broder 1997), with a standard error of at most .05, on candidates of an LSH table
    of the texts that are no near copies.
    """
    if not 0 < share <= 1:
        raise CraneError(f"near copies {share:g}: expected a share above 0 and at most 1, such as 0.8")
    from datasketch import MinHash, MinHashLSH

    table = MinHashLSH(threshold=min(share, _HIGHEST), num_perm=_PERMUTATIONS, weights=_FALSE)
    empty = MinHash(num_perm=_PERMUTATIONS, seed=_HASH_SEED, hashfunc=crc32, scheme="affine32")  # which mixes the bits
    kept: list[MinHash] = []

    def tested(text: str) -> bool:
        found, pieces = empty.copy(), iter(shingles(text))
        while some := [piece.encode() for piece in islice(pieces, _AT_ONCE)]:
            found.update_batch(some)
        if any(found.jaccard(kept[number]) >= share for number in table.query(found)):
            return True
        table.insert(len(kept), found)
        kept.append(found)
        return False

    return tested
