"""Four-way questions in groups of four that share their options.

In a group every option is the answer exactly once, so a guesser that looks at the options alone (the frequent one,
the long one) is right once in four by construction. Groups in which the spelling of question and option gives the
answer away more often than chance, in any language, are not formed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from crane_lib.knowledge import wordings
from crane_lib.knowledge.facts import Fact
from crane_lib.knowledge.guessers import expected_hit, overlap
from crane_lib.knowledge.names import LANGUAGES
from crane_lib.knowledge.questions import Question

OPTIONS = 4
_ATTEMPTS = 4000


def _group(facts: Sequence[Fact], language: str, order: Sequence[int]) -> list[Question]:
    """The four questions of a group; `order` is the shown order of the four answers."""
    shown = [wordings.answer(facts[index], language) for index in order]
    return [
        Question(
            key=fact.key,
            language=language,
            subject=fact.subject,
            question=wordings.questions(fact, language)[0],
            options=tuple(shown),
            gold=list(order).index(number),
        )
        for number, fact in enumerate(facts)
    ]


def _gives_away(group: Sequence[Question]) -> bool:
    """Whether spelling finds more than one answer of the four, as chance would."""
    return sum(expected_hit(question, overlap(question)) for question in group) > 1.0 + 1e-9


def _draw_four(by_answer: dict[str, list[Fact]], generator: np.random.Generator) -> list[Fact] | None:
    """Four facts of four answers; answers with many unused facts are drawn more often."""
    answers = [answer for answer, facts in by_answer.items() if facts]
    if len(answers) < OPTIONS:
        return None
    weight = np.array([len(by_answer[answer]) for answer in answers], dtype=float)
    drawn = generator.choice(len(answers), size=OPTIONS, replace=False, p=weight / weight.sum())
    return [by_answer[answers[i]][generator.integers(len(by_answer[answers[i]]))] for i in drawn]


def form_questions(facts: Sequence[Fact], *, groups_per_subject: int, random_seed: int) -> dict[str, list[Question]]:
    """Questions a language, parallel across languages: the same facts, groups and option order.

    Parameters
    ----------
    groups_per_subject : so many groups of four a subject, fewer where its facts do not allow them
    """
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[fact.subject].append(fact)
    questions: dict[str, list[Question]] = {language: [] for language in LANGUAGES}
    for number, subject in enumerate(sorted(by_subject)):
        generator = np.random.default_rng([random_seed, number])
        by_answer: dict[str, list[Fact]] = defaultdict(list)
        for fact in by_subject[subject]:
            by_answer[fact.answer_key].append(fact)
        formed = 0
        for _attempt in range(_ATTEMPTS):
            four = _draw_four(by_answer, generator) if formed < groups_per_subject else None
            if four is None:
                break
            order = generator.permutation(OPTIONS).tolist()
            group = {language: _group(four, language, order) for language in LANGUAGES}
            distinct = all(len(set(group[language][0].options)) == OPTIONS for language in LANGUAGES)
            if not distinct or any(_gives_away(group[language]) for language in LANGUAGES):
                continue
            for fact in four:
                by_answer[fact.answer_key].remove(fact)
            for language in LANGUAGES:
                questions[language] += group[language]
            formed += 1
    return questions
