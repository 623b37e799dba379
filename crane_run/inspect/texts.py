"""Contribution and firing of one neuron, token by token, in texts, from the relevance pass itself."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from crane_lib.batches import computed_batches, pad_batch, rope_section, token_batches
from crane_lib.errors import CraneError
from crane_lib.relevance import document_relevance
from crane_run.inspect.ranks import Neuron, check_neuron
from crane_run.inspect.run import FinishedRun

Offsets = Sequence[tuple[int, int]]  # start and end of each token in its text
_JOINER = "\u200d"


@dataclass(frozen=True)
class Piece:
    """A piece of text that is one token, or the fewest tokens that make whole characters.

    `relevance` is the sum over its tokens, `activation` the largest in size, `fires` whether any fires. A special token
    (the beginning of the text) and text that no token covers are pieces too; of the latter, `tokens` is 0.
    """

    text: str
    relevance: float = 0.0
    activation: float = 0.0
    fires: bool = False
    tokens: int = 0
    special: bool = False


@dataclass(frozen=True)
class Reading:
    """A text, numbered in its split, with a neuron's relevance summed over it, and where the neuron fires."""

    number: int
    language: str
    pieces: tuple[Piece, ...]
    relevance: float
    tokens: int
    firing_tokens: int


def _cuts(text: str, position: int) -> bool:
    """Return whether a boundary at a position would cut off a combining mark or cut at a joiner."""
    if not 0 < position < len(text):
        return False
    before, after = text[position - 1], text[position]
    return _JOINER in (before, after) or unicodedata.category(after).startswith("M")


def whole_spans(text: str, offsets: Offsets) -> list[tuple[int, int, list[int]]]:
    """Group tokens so that no group cuts a character: start, end and the tokens' places of each group.

    Tokens that are bytes of one character share its offsets; tokens of a letter and of its combining mark have offsets
    that meet inside what is seen as one letter. Both are joined. Special tokens (start = end) are left out.
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


def pieces_of(text: str, offsets: Offsets, names: Sequence[str], values: np.ndarray) -> list[Piece]:
    """Split a text into pieces, in NFC, by its tokens' offsets and relevance, activation and firing (3, T).

    The tokens' own `names` are shown for special tokens, which have no place in the text.
    """

    def piece(shown: str, places: list[int], *, special: bool = False) -> Piece:
        relevance, activation, fires = values[:, places]
        total, largest, fired = float(relevance.sum()), float(max(activation, key=abs)), bool(fires.any())
        return Piece(unicodedata.normalize("NFC", shown), total, largest, fired, len(places), special)

    starts = {places[0]: (start, end, places) for start, end, places in whole_spans(text, offsets)}
    pieces: list[Piece] = []
    reached = 0
    for place, (start, end) in enumerate(offsets):
        if start == end:
            pieces.append(piece(names[place], [place], special=True))
        elif place in starts:
            begin, stop, places = starts[place]
            if begin > reached:  # spaces that the tokenizer drops
                pieces.append(Piece(text[reached:begin]))
            pieces.append(piece(text[begin:stop], places))
            reached = stop
    if reached < len(text):
        pieces.append(Piece(unicodedata.normalize("NFC", text[reached:])))
    return pieces


def _read(run: FinishedRun, neuron: Neuron, language: str, texts: pd.Series) -> list[Reading]:
    """Read the contribution, activation and firing of a neuron at every token; texts under two tokens are left out."""
    check_neuron(run, neuron)
    model, tokenizer = run.model(neuron.model)
    if not tokenizer.is_fast:
        raise CraneError("this model's tokenizer gives no places of tokens; use its fast form (tokenizer.json)")
    options = run.profile.relevance
    whole = {"truncation": False, "padding": False, "verbose": False, "return_offsets_mapping": True}
    encoded = {number: tokenizer(text, **whole) for number, text in texts.items()}
    most = options.max_length
    ids = {number: np.array(one["input_ids"][:most], dtype=np.int64) for number, one in encoded.items()}
    numbers = [number for number in ids if len(ids[number]) >= 2]  # of one token there is nothing to predict
    if not numbers:
        raise CraneError("no text has two tokens or more; give a longer one")
    readings: dict[int, Reading] = {}
    lengths, section = [len(ids[number]) for number in numbers], rope_section(model)

    def watched_values(batch: list[int]) -> np.ndarray:
        padded, mask = pad_batch([ids[numbers[place]] for place in batch])
        found = document_relevance(model, padded, mask, objective=run.objective, rule=options.rule, watch=neuron.place)
        assert found.watched is not None  # it was asked for
        watched = (found.watched.relevance, found.watched.activation, found.watched.fires)
        return np.stack([part.float().cpu().numpy() for part in watched], axis=1)  # (B, 3, T)

    batches = token_batches(lengths, token_budget=options.token_budget, section=section)
    for batch, values in computed_batches(batches, lengths, watched_values, what="text"):
        for row, number in enumerate(numbers[place] for place in batch):
            tokens, places = ids[number], encoded[number]["offset_mapping"][:most]
            offsets = [(int(start), int(end)) for start, end in places]
            own = values[row, :, : len(tokens)]
            text, reached = str(texts[number]), max(end for _start, end in offsets)
            cut = len(tokens) == most and reached < len(text)
            names = tokenizer.convert_ids_to_tokens(tokens.tolist())
            pieces = pieces_of(text[:reached] if cut else text, offsets, names, own)
            pieces += [Piece(" …")] if cut else []
            total, firing = float(own[0].sum(dtype=np.float64)), int((own[2] > 0).sum())
            readings[number] = Reading(int(number), language, tuple(pieces), total, len(tokens), firing)
    return [readings[number] for number in numbers]


def read_documents(run: FinishedRun, neuron: Neuron, language: str, *, count: int) -> list[Reading]:
    """Read a fixed random sample of the texts of a language that relevance was measured on."""
    run.check(language=language)
    return _read(run, neuron, language, run.sample("relevance", language, count=count))


def read_sentence(run: FinishedRun, neuron: Neuron, language: str, text: str) -> Reading:
    """Read a text given by the user; one of less than two tokens is a CraneError."""
    return _read(run, neuron, language, pd.Series([text.strip()]))[0]


def top_documents(readings: Sequence[Reading], *, count: int) -> list[Reading]:
    """Texts to which the neuron contributes most, the largest sum of relevance first."""
    return sorted(readings, key=lambda reading: (-reading.relevance, reading.number))[:count]


def top_pieces(readings: Sequence[Reading], *, count: int) -> pd.DataFrame:
    """Tokens at which the neuron contributes most over all texts, the largest sum of relevance first.

    `times` is how often a token occurs, `fires` the share of these at which the neuron fires.
    """
    frame = pd.DataFrame(vars(piece) for reading in readings for piece in reading.pieces if piece.tokens)
    frame["piece"] = [text.strip() or text for text in frame["text"]]
    grouped = frame.groupby("piece").agg(
        times=("fires", "size"),
        fires=("fires", "mean"),
        relevance=("relevance", "sum"),
        mean_activation=("activation", "mean"),
    )
    return grouped.sort_values("relevance", ascending=False, kind="stable").head(count).reset_index()
