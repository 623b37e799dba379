"""Measures of a steered answer: the language that it is in, and whether it is about its prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from crane_lib.errors import CraneError
from crane_study.measure.judge_offline import KnowledgeBase

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NONE, ASKED = "unsteered", "asked"  # the model as it is, asked in another and in the wanted language
RIVAL = "difference_of_means"
GAIN, MEAN, PUSH = "gain", "mean activation", "residual stream"  # how a method steers


def language_detector(languages: Sequence[str]) -> Callable[[str], str]:
    """Function that names the language of a text, one of these codes, by lingua; empty where it detects none.

    Raises
    ------
    CraneError : lingua does not know a language, or cannot tell two of them apart
    """
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    known = {}
    for code in languages:
        try:
            known[IsoCode639_1.from_str(code.replace("_", "-").partition("-")[0])] = code  # without script or region
        except ValueError as error:
            raise CraneError(f"lingua knows no language by the code {code!r}; it takes codes of two letters") from error
    if len(known) < max(2, len(languages)):
        raise CraneError(f"lingua tells two different languages apart; the study has {', '.join(languages)}")
    detector = LanguageDetectorBuilder.from_iso_codes_639_1(*known).build()

    @cache
    def detect(text: str) -> str:
        found = detector.detect_language_of(text)
        return known[found.iso_code_639_1] if found is not None else ""

    return detect


def chance_corrected(hits: np.ndarray, candidates: int) -> np.ndarray:
    """Hits, 0 or 1 each, as the excess over guessing among `candidates`: (hit - 1/K) / (1 - 1/K), on average 0 to 1."""
    return (hits - 1 / candidates) / (1 - 1 / candidates)


def retrieved(
    model: PreTrainedModel,
    answers: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    *,
    token_budget: int,
) -> np.ndarray:
    """Find answers to which the model as it is gives more probability after their own prompt than after others.

    Parameters
    ----------
    answers : tokens of every answer
    candidates : for every answer the tokens of K prompts, its own first

    Returns
    -------
    (answers,) 1 where the first prompt gives the answer the lowest NLL of all, else 0
    """
    from crane_study.measure.generation import answer_nll  # here, so that tables and figures start without torch

    pairs = [(tuple(p), tuple(own)) for own, prompts in zip(answers, candidates, strict=True) for p in prompts]
    distinct = list(dict.fromkeys(pairs))
    values = answer_nll(model, [p for p, _own in distinct], [own for _p, own in distinct], token_budget=token_budget)
    nll = dict(zip(distinct, values.tolist(), strict=True))
    hits = []
    for own, prompts in zip(answers, candidates, strict=True):
        first, *others = (nll[tuple(p), tuple(own)] for p in prompts)
        hits.append(float(first < min(others)))
    return np.array(hits)


def fact_value(knowledge: KnowledgeBase, answer: str, asked: Mapping[str, Any]) -> float:
    """Value an answer that names the expected one, in whichever language: 1, half if it names others too, else 0.

    `asked` has subject, answer_key and language of the question.
    """
    given = {name: str(asked[name]) for name in ("subject", "answer_key", "language")}
    found = knowledge.check(answer, **given)
    return found.named * (0.5 if found.others else 1.0)
