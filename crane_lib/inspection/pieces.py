"""Tokens as a reader sees them: whole characters, with what a neuron does at each."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_JOINER = "\u200d"


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is one token, or the fewest tokens that make whole characters.

    `relevance` is the sum over its tokens, `activation` the largest in size, `fires` whether any fires. A special token
    (the beginning of the text) and text that no token covers are pieces too; of the latter, `tokens` is 0.
    """

    text: str
    relevance: float
    activation: float
    fires: bool
    tokens: int = 1
    special: bool = False


def _extends(character: str) -> bool:
    """Whether a character belongs to the one before it: a combining mark or a joiner."""
    return unicodedata.category(character) in ("Mn", "Mc", "Me") or character == _JOINER


def _cuts(text: str, position: int) -> bool:
    """Whether a boundary at a position would cut through what is seen as one character."""
    inside = 0 < position < len(text)
    return inside and (_extends(text[position]) or text[position - 1] == _JOINER)


def whole_spans(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """Group tokens so that no group cuts a character.

    Tokens that are bytes of one character share its offsets; tokens of a letter and of its combining mark have offsets
    that meet inside what is seen as one letter. Both are joined.

    Parameters
    ----------
    offsets : start and end of each token in `text`; special tokens, which are nowhere, have start = end

    Returns
    -------
    start, end and the tokens' places of each group, in the order of the text; special tokens are left out
    """
    groups: list[tuple[int, int, list[int]]] = []
    for place, (start, end) in enumerate(offsets):
        if start == end:
            continue
        if groups and (start < groups[-1][1] or _cuts(text, start)):
            first, last, places = groups[-1]
            groups[-1] = (first, max(last, end), [*places, place])
        else:
            groups.append((start, end, [place]))
    return groups


def pieces_of(
    text: str,
    offsets: Sequence[tuple[int, int]],
    names: Sequence[str],
    *,
    relevance: np.ndarray,
    activation: np.ndarray,
    fires: np.ndarray,
) -> list[Piece]:
    """Pieces of a text from its tokens' offsets and values, each text in NFC.

    Parameters
    ----------
    names : the tokens' own names, shown for those that are nowhere in the text (special tokens)
    relevance, activation, fires : (T,)
    """

    def piece(shown: str, places: list[int], *, is_special: bool = False) -> Piece:
        largest = places[int(np.argmax(np.abs(activation[places])))]
        return Piece(
            unicodedata.normalize("NFC", shown),
            float(relevance[places].sum()),
            float(activation[largest]),
            bool(fires[places].any()),
            len(places),
            is_special,
        )

    starts = {places[0]: (start, end, places) for start, end, places in whole_spans(text, offsets)}
    pieces: list[Piece] = []
    reached = 0
    for place, (start, end) in enumerate(offsets):
        if start == end:
            pieces.append(piece(names[place], [place], is_special=True))
            continue
        if place not in starts:
            continue
        begin, stop, places = starts[place]
        if begin > reached:  # spaces that the tokenizer drops
            pieces.append(Piece(text[reached:begin], 0.0, 0.0, False, tokens=0))
        pieces.append(piece(text[begin:stop], places))
        reached = stop
    if reached < len(text):
        pieces.append(Piece(unicodedata.normalize("NFC", text[reached:]), 0.0, 0.0, False, tokens=0))
    return pieces
