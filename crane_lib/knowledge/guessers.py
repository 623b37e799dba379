"""Guessers that know nothing: what a four-way benchmark gives away without recall.

Each scores the options of a question without any model. Their expected accuracy, ties split evenly, stands beside
the model's; a benchmark on which one of them does well measures spelling or frequency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from crane_lib.knowledge.questions import Question

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
