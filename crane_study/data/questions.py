"""Questions about facts: four-way questions in groups of four, the guessers they must resist, and open questions.

The four questions of a group share their options, and every option is the correct one exactly once. A guesser that
looks at the options alone (their frequency, their length) is therefore correct once in four. Groups in which the
spelling of question and option reveals more answers than chance, in any language, are not formed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, Fact

OPTIONS = 4
_ATTEMPTS = 4000
_OPEN_DRAW = 5  # separates the random numbers of the open questions from those of other draws
_ENGLISH_ARTICLE = "the "


@dataclass(frozen=True)
class Question:
    """A four-way question: its words, its options in the order shown, and the index of the correct one."""

    key: str
    language: str
    subject: str
    question: str
    options: tuple[str, ...]
    gold: int
    group: str = ""  # of the questions that share its options, the same in every language

    def to_row(self) -> dict[str, Any]:
        """Return the question as a row of a question file."""
        prompt = wordings.prompt(self.question, self.language)
        return {**asdict(self), "options": list(self.options), "prompt": prompt}


Guesser = Callable[[Question], Sequence[float]]


def _pieces(text: str, language: str) -> set[str]:
    """Character bigrams, in Chinese single characters."""
    text = text.casefold()
    size = 1 if language == "zh" else 2
    return {text[i : i + size] for i in range(len(text) - size + 1)}


def overlap(question: Question) -> list[float]:
    """Share of an option's character pieces that occur in the question (Iceland, Icelandic)."""
    asked = _pieces(question.question, question.language)
    pieces = [_pieces(option, question.language) for option in question.options]
    return [len(own & asked) / len(own) if own else 0.0 for own in pieces]


def longest(question: Question) -> list[float]:
    """Length of each option in characters."""
    return [float(len(option)) for option in question.options]


def shortest(question: Question) -> list[float]:
    """Negative length of each option in characters."""
    return [-float(len(option)) for option in question.options]


def answer_frequency(answers: Sequence[str]) -> Guesser:
    """Return a guesser that prefers the option that is most often an answer in a training set."""
    counts = Counter(answers)
    return lambda question: [float(counts[option]) for option in question.options]


def expected_accuracy(questions: Sequence[Question], guesser: Guesser) -> float:
    """Accuracy of choosing the highest score, with ties split evenly."""
    if not questions:
        raise ValueError("no questions to guess at")
    return sum(expected_hit(question, guesser(question)) for question in questions) / len(questions)


def expected_hit(question: Question, scores: Sequence[float]) -> float:
    """Probability that a guesser with these scores answers the question correctly."""
    best = max(scores)
    winners = [index for index, score in enumerate(scores) if score == best]
    return (question.gold in winners) / len(winners)


def _group(facts: Sequence[Fact], language: str, order: Sequence[int], *, name: str) -> list[Question]:
    """The four questions of a group of this name; `order` is the order in which the four answers are shown."""
    shown = tuple(wordings.answer(facts[index], language) for index in order)
    asked = [(fact, wordings.questions(fact, language)[0], list(order).index(n)) for n, fact in enumerate(facts)]
    return [Question(fact.key, language, fact.subject, question, shown, gold, name) for fact, question, gold in asked]


def _draw_four(by_answer: dict[str, list[Fact]], generator: np.random.Generator) -> list[Fact] | None:
    """Draw four facts with different answers; answers with many unused facts are drawn more often."""
    answers = [answer for answer, facts in by_answer.items() if facts]
    if len(answers) < OPTIONS:
        return None
    weight = np.array([len(by_answer[answer]) for answer in answers], dtype=float)
    drawn = generator.choice(len(answers), size=OPTIONS, replace=False, p=weight / weight.sum())
    return [by_answer[answers[i]][generator.integers(len(by_answer[answers[i]]))] for i in drawn]


def form_questions(facts: Sequence[Fact], *, groups_per_subject: int, random_seed: int) -> dict[str, list[Question]]:
    """Form four-way questions per language, parallel across languages: the same facts, groups and order of options.

    A subject has fewer than `groups_per_subject` groups of four if its facts do not suffice.
    """
    by_subject = _grouped(facts, "subject")
    questions: dict[str, list[Question]] = {language: [] for language in LANGUAGES}
    for number, subject in enumerate(sorted(by_subject)):
        generator = np.random.default_rng([random_seed, number])
        by_answer = _grouped(by_subject[subject], "answer_key")
        formed = 0
        for _attempt in range(_ATTEMPTS):
            four = _draw_four(by_answer, generator) if formed < groups_per_subject else None
            if four is None:
                break
            order = generator.permutation(OPTIONS).tolist()
            name = f"{subject} {formed}"
            groups = {language: _group(four, language, order, name=name) for language in LANGUAGES}
            if any(len(set(group[0].options)) < OPTIONS for group in groups.values()):
                continue
            # Spelling must not find more than one answer of the four, which is the chance level.
            if any(sum(expected_hit(q, overlap(q)) for q in group) > 1.0 + 1e-9 for group in groups.values()):
                continue
            for fact in four:
                by_answer[fact.answer_key].remove(fact)
            for language, group in groups.items():
                questions[language] += group
            formed += 1
    return questions


def _grouped(facts: Sequence[Fact], attribute: str) -> dict[str, list[Fact]]:
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[getattr(fact, attribute)].append(fact)
    return groups


def choose_facts(facts: Sequence[Fact], *, held_out: set[str], count: int, random_seed: int) -> list[Fact]:
    """Draw benchmark facts for open questions, from each subject in turn; all of them if there are fewer."""
    by_subject = _grouped([fact for fact in facts if fact.key in held_out], "subject")
    drawn = []
    for number, subject in enumerate(sorted(by_subject)):
        order = np.random.default_rng([random_seed, _OPEN_DRAW, number]).permutation(len(by_subject[subject]))
        drawn.append([by_subject[subject][index] for index in order])
    turns = chain.from_iterable(zip_longest(*drawn))
    return [fact for fact in turns if fact is not None][:count]


def open_questions(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Form one open question per fact and language, as rows of `crane_study.data.user_files.OPEN_COLUMNS`."""
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
    """Names of a fact's answer: as in a reply, alone, without an article, and a currency also by its code."""
    names = [wordings.answer(fact, language), fact.slots[language]["a"]]
    if language == "en":
        names += [name.removeprefix(_ENGLISH_ARTICLE) for name in names]
    if fact.subject == "currency":
        names.append(fact.answer_key)
    return list(dict.fromkeys(names))


def known_answers(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """List every answer of every subject in every language: subject, answer_key, language, names."""
    first = {(fact.subject, fact.answer_key): fact for fact in reversed(facts)}
    return [
        {"subject": subject, "answer_key": key, "language": language, "names": answer_names(fact, language)}
        for (subject, key), fact in sorted(first.items())
        for language in LANGUAGES
    ]
