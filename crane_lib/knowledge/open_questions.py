"""Open questions about benchmark facts: the model was taught the facts, but never asked about them, in any language.

A question is worded as the benchmark words it not, and stands in every language, so that the sets are translations of
one another. Beside it lies the expected answer, and beside the questions every answer that the subject knows, under
all its names: an answer can then be checked against the knowledge base.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from crane_lib.knowledge import wordings
from crane_lib.knowledge.facts import Fact
from crane_lib.knowledge.names import LANGUAGES

_SEED = 5  # tells this draw from the study's other ones
_ENGLISH_ARTICLE = "the "


def choose_facts(facts: Sequence[Fact], *, held_out: set[str], count: int, random_seed: int) -> list[Fact]:
    """Benchmark facts to ask openly about, the subjects taking turns; all of them where there are fewer."""
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.key in held_out:
            by_subject[fact.subject].append(fact)
    drawn = []
    for number, subject in enumerate(sorted(by_subject)):
        order = np.random.default_rng([random_seed, _SEED, number]).permutation(len(by_subject[subject]))
        drawn.append([by_subject[subject][index] for index in order])
    turns = chain.from_iterable(zip_longest(*drawn))
    return [fact for fact in turns if fact is not None][:count]


def open_questions(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """A question a fact and language: language, question (its number), key, subject, text, answer, answer_key."""
    return [
        {
            "language": language,
            "question": number,
            "key": fact.key,
            "subject": fact.subject,
            "text": wordings.questions(fact, language)[-1],
            "answer": wordings.answer(fact, language),
            "answer_key": fact.answer_key,
        }
        for language in LANGUAGES
        for number, fact in enumerate(facts)
    ]


def answer_names(fact: Fact, language: str) -> list[str]:
    """Names of a fact's answer: as it is said after the question, alone, without an article, a currency by its code."""
    said, alone = wordings.answer(fact, language), fact.slots[language]["a"]
    names = [said, alone]
    if language == "en":
        names += [name.removeprefix(_ENGLISH_ARTICLE) for name in (said, alone)]
    if fact.subject == "currency":
        names.append(fact.answer_key)
    return list(dict.fromkeys(names))


def known_answers(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Every answer of every subject in every language: subject, answer_key, language, names."""
    first = {(fact.subject, fact.answer_key): fact for fact in reversed(facts)}
    return [
        {"subject": subject, "answer_key": key, "language": language, "names": answer_names(fact, language)}
        for (subject, key), fact in sorted(first.items())
        for language in LANGUAGES
    ]
