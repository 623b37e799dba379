"""Contribution and firing of one neuron, token by token, in texts, from the relevance pass itself."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.nll import pad_batch, token_batches
from crane_lib.relevance import document_relevance
from crane_run.inspect.ranks import Neuron, check_neuron
from crane_run.inspect.run import FinishedRun
from crane_study.profile import Relevance

_JOINER = "\u200d"


@dataclass(frozen=True)
class Piece:
    """A piece of text that is one token, or the fewest tokens that make whole characters.

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
    """Return whether a character belongs to the one before it: a combining mark or a joiner."""
    return unicodedata.category(character) in ("Mn", "Mc", "Me") or character == _JOINER


def _cuts(text: str, position: int) -> bool:
    """Return whether a boundary at a position would cut what is seen as one character."""
    inside = 0 < position < len(text)
    return inside and (_extends(text[position]) or text[position - 1] == _JOINER)


def whole_spans(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """Group tokens so that no group cuts a character.

    Tokens that are bytes of one character share its offsets; tokens of a letter and of its combining mark have offsets
    that meet inside what is seen as one letter. Both are joined.

    Parameters
    ----------
    offsets : start and end of each token in `text`; special tokens, which have no place, have start = end

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
    """Split a text into pieces by its tokens' offsets and values; the text of each piece is in NFC.

    Parameters
    ----------
    names : the tokens' own names, shown for special tokens, which have no place in the text
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


_SHORTEST = 2  # tokens: below that there is nothing to predict
_COLUMNS = ["piece", "times", "fires", "relevance", "mean_activation"]


@dataclass(frozen=True)
class Reading:
    """A text with the contribution and firing of a neuron.

    `relevance` is the neuron's contribution to the document (the sum over its tokens), `number` the text's place in
    its split.
    """

    number: int
    language: str
    pieces: tuple[Piece, ...]
    relevance: float
    tokens: int
    firing_tokens: int


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, max_length: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Token ids of a text, as the study makes them, and the place of each token in it."""
    if not tokenizer.is_fast:
        raise CraneError("this model's tokenizer gives no places of tokens; use its fast form (tokenizer.json)")
    encoded = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    return np.array(encoded["input_ids"], dtype=np.int64), [(int(a), int(b)) for a, b in encoded["offset_mapping"]]


def read_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: pd.Series,
    *,
    neuron: tuple[int, int],
    language: str,
    objective: str,
    options: Relevance,
) -> list[Reading]:
    """Read the contribution, activation and firing of a neuron at every token; texts under two tokens are left out.

    Parameters
    ----------
    texts : by number
    neuron : layer and index
    objective : as in `crane_lib.relevance.document_relevance`

    Raises
    ------
    CraneError : no text of two tokens is left, or the tokenizer gives no places of tokens
    """
    encoded = {number: _encode(tokenizer, text, max_length=options.max_length) for number, text in texts.items()}
    numbers = [number for number, (ids, _) in encoded.items() if len(ids) >= _SHORTEST]
    if not numbers:
        raise CraneError("no text has two tokens or more; give a longer one")
    readings: dict[int, Reading] = {}
    lengths = [len(encoded[number][0]) for number in numbers]
    for batch in token_batches(lengths, token_budget=options.token_budget):
        chosen = [numbers[place] for place in batch]
        ids, mask = pad_batch([encoded[number][0] for number in chosen])
        found = document_relevance(model, ids, mask, objective=objective, rule=options.rule, watch=neuron).watched
        assert found is not None  # it was asked for
        values = [part.float().cpu().numpy() for part in (found.relevance, found.activation, found.fires)]
        for row, number in enumerate(chosen):
            tokens, offsets = encoded[number]
            relevance, activation, fires = (part[row, : len(tokens)] for part in values)
            text, reached = str(texts[number]), max(end for _start, end in offsets)
            cut = len(tokens) == options.max_length and reached < len(text)
            pieces = pieces_of(
                text[:reached] if cut else text,
                offsets,
                tokenizer.convert_ids_to_tokens(tokens.tolist()),
                relevance=relevance,
                activation=activation,
                fires=fires > 0,
            )
            pieces += [Piece(" …", 0.0, 0.0, False, tokens=0)] if cut else []
            total, firing = float(relevance.sum(dtype=np.float64)), int((fires > 0).sum())
            readings[number] = Reading(int(number), language, tuple(pieces), total, len(tokens), firing)
    return [readings[number] for number in numbers]


def read_documents(
    run: FinishedRun, neuron: Neuron, language: str, *, count: int, split: str = "relevance"
) -> list[Reading]:
    """Read a fixed random sample of a run's texts of a language."""
    run.check_language(language)
    return _read(run, neuron, language, run.sample(split, language, count=count))


def read_sentence(run: FinishedRun, neuron: Neuron, language: str, text: str) -> Reading:
    """Read a text given by the user.

    Raises
    ------
    CraneError : the text is too short
    """
    return _read(run, neuron, language, pd.Series([text.strip()]))[0]


def _read(run: FinishedRun, neuron: Neuron, language: str, texts: pd.Series) -> list[Reading]:
    check_neuron(run, neuron)
    model, tokenizer = run.model(neuron.model)
    return read_texts(
        model,
        tokenizer,
        texts,
        neuron=neuron.place,
        language=language,
        objective=run.objective,
        options=run.profile.relevance,
    )


def top_documents(readings: Sequence[Reading], *, count: int) -> list[Reading]:
    """Texts to which the neuron contributes most, the largest sum of relevance first."""
    return sorted(readings, key=lambda reading: (-reading.relevance, reading.number))[:count]


def top_pieces(readings: Sequence[Reading], *, count: int) -> pd.DataFrame:
    """Tokens at which the neuron contributes most, over all texts.

    Returns
    -------
    frame with piece, times it occurs, fires (share of them), relevance (sum over them) and
    mean_activation; the largest sums first
    """
    rows = [
        (piece.text.strip() or piece.text, piece.fires, piece.relevance, piece.activation)
        for reading in readings
        for piece in reading.pieces
        if piece.tokens
    ]
    frame = pd.DataFrame(rows, columns=["piece", "fires", "relevance", "activation"])
    grouped = frame.groupby("piece", sort=True).agg(
        times=("fires", "size"),
        fires=("fires", "mean"),
        relevance=("relevance", "sum"),
        mean_activation=("activation", "mean"),
    )
    ordered = grouped.sort_values("relevance", ascending=False, kind="stable")
    return ordered.head(count).reset_index()[_COLUMNS]
