"""Four-way questions in groups of four that share their options.

In a group every option is the answer exactly once, so a guesser that looks at the options alone (the frequent one,
the long one) is right once in four by construction. Groups in which the spelling of question and option gives the
answer away more often than chance, in any language, are not formed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, Fact

COLUMNS = ("language", "question", "key", "subject", "text", "answer", "answer_key")


def read_question_file(path: Path) -> list[str]:
    """Questions of a text file, one a line; empty lines do not count.

    Raises
    ------
    CraneError : no such file, not UTF-8, no question, or a question twice
    """
    if not path.is_file():
        raise CraneError(f"open questions {path}: no such file")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CraneError(f"open questions {path}: is not UTF-8 (byte {error.start}); convert it first") from error
    questions = [line.strip() for line in content.split("\n") if line.strip()]
    if not questions:
        raise CraneError(f"open questions {path}: has no questions; put one on each line")
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, start=1):
        if question in seen:
            raise CraneError(f"open questions {path}: question {number} repeats question {seen[question]}; remove one")
        seen[question] = number
    return questions


def read_question_files(paths: Mapping[str, Path]) -> pd.DataFrame:
    """Questions of several languages; those with the same number are translations of one another.

    Returns
    -------
    frame with `COLUMNS`; subject, answer and answer_key are empty, for no expected answer is known

    Raises
    ------
    CraneError : as `read_question_file`, or the languages have different numbers of questions
    """
    by_language = {language: read_question_file(Path(path)) for language, path in paths.items()}
    counts = {language: len(questions) for language, questions in by_language.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{language} {count}" for language, count in counts.items())
        raise CraneError(f"open questions: the languages have different numbers of questions ({told}); align the files")
    rows = [
        (language, number, f"question/{number + 1}", "", text, "", "")
        for language, questions in by_language.items()
        for number, text in enumerate(questions)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


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


@dataclass(frozen=True)
class Question:
    """A four-way question: the words, the options in their shown order, and which of them is right."""

    key: str
    language: str
    subject: str
    question: str
    options: tuple[str, ...]
    gold: int

    def to_row(self) -> dict[str, Any]:
        """The question as a row of a task file for lm-evaluation-harness."""
        row = asdict(self)
        row["options"] = list(self.options)
        row["prompt"] = wordings.prompt(self.question, self.language)
        return row


Guesser = Callable[[Question], Sequence[float]]


def _pieces(text: str, language: str) -> set[str]:
    """Character bigrams, in Chinese single characters."""
    text = text.casefold()
    size = 1 if language == "zh" else 2
    return {text[i : i + size] for i in range(len(text) - size + 1)}


def overlap(question: Question) -> list[float]:
    """Share of an option's character pieces that stand in the question (Iceland, Icelandic)."""
    asked = _pieces(question.question, question.language)
    scores = []
    for option in question.options:
        pieces = _pieces(option, question.language)
        scores.append(len(pieces & asked) / len(pieces) if pieces else 0.0)
    return scores


def longest(question: Question) -> list[float]:
    """Length of each option in characters."""
    return [float(len(option)) for option in question.options]


def shortest(question: Question) -> list[float]:
    """Negative length of each option in characters."""
    return [-float(len(option)) for option in question.options]


def answer_frequency(answers: Sequence[str]) -> Guesser:
    """A guesser that takes the option most often the answer in a training set (`answers`)."""
    counts = Counter(answers)
    return lambda question: [float(counts[option]) for option in question.options]


def expected_accuracy(questions: Sequence[Question], guesser: Guesser) -> float:
    """Accuracy of taking the highest score, an even split among ties.

    Raises
    ------
    ValueError : no question was given
    """
    if not questions:
        raise ValueError("no questions to guess at")
    return sum(expected_hit(question, guesser(question)) for question in questions) / len(questions)


def expected_hit(question: Question, scores: Sequence[float]) -> float:
    """Probability that a guesser with these scores answers the question right."""
    best = max(scores)
    winners = [index for index, score in enumerate(scores) if score == best]
    return (question.gold in winners) / len(winners)


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
