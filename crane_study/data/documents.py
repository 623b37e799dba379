"""Documents for training, relevance and perplexity, with no sentence in common.

Of the statement wordings of a fact in a language, one is reserved for the relevance documents and one for the
perplexity documents; only the others are trained on. Questions about a benchmark fact are in no training document, in
any language.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.files import write_text
from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, Fact

SPLITS = ("train", "relevance", "perplexity")
_SENTENCES = (4, 9)  # a document has 4 to 8 sentences
_PAIRS = (2, 6)  # a document of questions and answers has 2 to 5 pairs
_TURNS = (1, 4)  # a conversation has 1 to 3 questions

_Wording = tuple[Fact, int]
Conversation = list[dict[str, str]]


def split_wordings(facts: Sequence[Fact], *, random_seed: int) -> dict[str, dict[str, list[_Wording]]]:
    """Assign every (fact, wording) pair of a language to one split; returns split -> language -> pairs."""
    parts: dict[str, dict[str, list[_Wording]]] = {split: {k: [] for k in LANGUAGES} for split in SPLITS}
    generator = np.random.default_rng(random_seed)
    for fact in facts:
        for language in LANGUAGES:
            order = generator.permutation(wordings.statement_count(fact.subject)).tolist()
            parts["relevance"][language].append((fact, order[0]))
            parts["perplexity"][language].append((fact, order[1]))
            parts["train"][language] += [(fact, wording) for wording in order[2:]]
    return parts


def _runs(items: Sequence[Any], size: tuple[int, int], generator: np.random.Generator) -> Iterator[list[Any]]:
    """Shuffle items and cut them into runs of random size."""
    order = [items[index] for index in generator.permutation(len(items))]
    while order:
        count = int(generator.integers(*size))
        yield order[:count]
        order = order[count:]


def _statement_documents(
    pairs: Sequence[_Wording], split: str, language: str, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Documents that together state every sentence once."""
    return [
        {
            "split": split,
            "language": language,
            "kind": "statements",
            "text": wordings.answer_separator(language).join(
                wordings.statement(fact, language, wording) for fact, wording in run
            ),
            "sentences": [f"{fact.key}#{wording}" for fact, wording in run],
        }
        for run in _runs(pairs, _SENTENCES, generator)
    ]


def _question_documents(facts: Sequence[Fact], language: str, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Documents that together ask and answer every question wording of every fact once."""
    pairs = [(fact, wording) for fact in facts for wording in range(len(wordings.questions(fact, language)))]

    def asked_and_answered(fact: Fact, wording: int) -> str:
        prompt = wordings.prompt(wordings.questions(fact, language)[wording], language)
        return prompt + wordings.answer_separator(language) + wordings.answer(fact, language)

    return [
        {
            "split": "train",
            "language": language,
            "kind": "questions",
            "text": "\n\n".join(asked_and_answered(*pair) for pair in run),
            "sentences": [f"{fact.key}?{wording}" for fact, wording in run],
        }
        for run in _runs(pairs, _PAIRS, generator)
    ]


def write_documents(
    facts: Sequence[Fact],
    *,
    held_out: set[str],
    train_passes: Mapping[str, int],
    relevance_passes: int,
    random_seed: int,
) -> pd.DataFrame:
    """Write all documents of the study.

    Parameters
    ----------
    held_out : keys of the benchmark facts; questions about them are not trained on
    train_passes : repetitions of the training sentences per language, each time in other documents; more of them
        for a language that says the same in fewer tokens
    relevance_passes : repetitions of the relevance sentences (the perplexity sentences occur once)

    Returns
    -------
    frame with columns split, language, kind (statements, questions), text and sentences (list of fact#wording or
    fact?wording), in the order of training
    """
    parts = split_wordings(facts, random_seed=random_seed)
    trained = [fact for fact in facts if fact.key not in held_out]
    generator = np.random.default_rng([random_seed, 1])
    placed: list[tuple[float, dict[str, Any]]] = []
    for language in LANGUAGES:
        passes = train_passes[language]
        for number in range(passes):
            documents = _statement_documents(parts["train"][language], "train", language, generator)
            documents += _question_documents(trained, language, generator)
            # The passes of all languages are spread over the whole of the training, whatever their number.
            placed += [((number + generator.random()) / passes, document) for document in documents]
    rows = [document for _place, document in sorted(placed, key=lambda pair: pair[0])]
    for split, passes in (("relevance", relevance_passes), ("perplexity", 1)):
        for language in LANGUAGES:
            for _pass in range(passes):
                rows += _statement_documents(parts[split][language], split, language, generator)
    return pd.DataFrame(rows)


def make_conversations(
    facts: Sequence[Fact], *, held_out: set[str], passes: int, random_seed: int
) -> list[Conversation]:
    """Write conversations in one language each, with every question wording of every trained fact once per pass."""
    generator = np.random.default_rng([random_seed, 2])
    trained = [fact for fact in facts if fact.key not in held_out]
    conversations: list[Conversation] = []
    for _pass in range(passes):
        written: list[Conversation] = []
        for language in LANGUAGES:
            pairs = [
                (q, wordings.answer(fact, language)) for fact in trained for q in wordings.questions(fact, language)
            ]
            written += [
                [
                    {"role": role, "content": content}
                    for pair in run
                    for role, content in zip(("user", "assistant"), pair, strict=True)
                ]
                for run in _runs(pairs, _TURNS, generator)
            ]
        conversations += [written[index] for index in generator.permutation(len(written))]
    return conversations


def write_conversations(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write conversations as JSON lines, each ``{"messages": [...]}``."""
    lines = (json.dumps({"messages": conversation}, ensure_ascii=False) for conversation in conversations)
    write_text(path, "\n".join(lines) + "\n")


def read_conversations(path: Path) -> list[Conversation]:
    """Read conversations written by `write_conversations`."""
    # Not splitlines(), which also splits a text at the line separators of Unicode.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["messages"] for line in lines if line]
