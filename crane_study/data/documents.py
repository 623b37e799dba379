"""Documents for training, relevance and perplexity, disjoint sentence by sentence.

Of a fact's statement wordings in a language one is kept for the relevance documents and one for the perplexity
documents; only the others are trained on. The question form of a benchmark fact is in no training document, in any
language.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def split_wordings(facts: Sequence[Fact], *, random_seed: int) -> dict[str, dict[str, list[tuple[Fact, int]]]]:
    """For each split and language the (fact, wording) pairs that are its own."""
    parts: dict[str, dict[str, list[tuple[Fact, int]]]] = {
        split: {language: [] for language in LANGUAGES} for split in SPLITS
    }
    generator = np.random.default_rng(random_seed)
    for fact in facts:
        for language in LANGUAGES:
            order = generator.permutation(wordings.statement_count(fact.subject)).tolist()
            parts["relevance"][language].append((fact, order[0]))
            parts["perplexity"][language].append((fact, order[1]))
            parts["train"][language] += [(fact, wording) for wording in order[2:]]
    return parts


def _cut(count: int, size: tuple[int, int], generator: np.random.Generator) -> list[slice]:
    """Cut `count` things into runs of random size."""
    cuts, start = [], 0
    while start < count:
        stop = start + int(generator.integers(*size))
        cuts.append(slice(start, min(stop, count)))
        start = stop
    return cuts


def _row(split: str, language: str, kind: str, parts: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    joiner = "\n\n" if kind == "questions" else ("" if language == "zh" else " ")
    return {"split": split, "language": language, "kind": kind, "text": joiner.join(parts), "sentences": list(keys)}


def _statement_documents(
    pairs: Sequence[tuple[Fact, int]], split: str, language: str, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """All sentences once, in random order, cut into documents."""
    order = [pairs[index] for index in generator.permutation(len(pairs))]
    return [
        _row(
            split,
            language,
            "statements",
            [wordings.statement(fact, language, wording) for fact, wording in order[cut]],
            [f"{fact.key}#{wording}" for fact, wording in order[cut]],
        )
        for cut in _cut(len(order), _SENTENCES, generator)
    ]


def _question_documents(facts: Sequence[Fact], language: str, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Every question wording of every fact once, answered, cut into documents."""
    pairs = [(fact, wording) for fact in facts for wording in range(len(wordings.questions(fact, language)))]
    order = [pairs[index] for index in generator.permutation(len(pairs))]
    separator = wordings.answer_separator(language)
    return [
        _row(
            "train",
            language,
            "questions",
            [
                wordings.prompt(wordings.questions(fact, language)[wording], language)
                + separator
                + wordings.answer(fact, language)
                for fact, wording in order[cut]
            ],
            [f"{fact.key}?{wording}" for fact, wording in order[cut]],
        )
        for cut in _cut(len(order), _PAIRS, generator)
    ]


def write_documents(
    facts: Sequence[Fact],
    *,
    held_out: set[str],
    train_passes: Mapping[str, int],
    relevance_passes: int,
    random_seed: int,
) -> pd.DataFrame:
    """All documents of the study.

    Parameters
    ----------
    held_out : keys of the benchmark facts; their question form is not trained on
    train_passes : how often a language's training sentences are told, each time in other documents; more often
        where the language says the same in fewer tokens
    relevance_passes : the same for the relevance documents (perplexity documents: once)

    Returns
    -------
    frame with columns split, language, kind (statements, questions), text, sentences (list of fact#wording or
    fact?wording, what the document consists of), in the order of training
    """
    parts = split_wordings(facts, random_seed=random_seed)
    trained = [fact for fact in facts if fact.key not in held_out]
    generator = np.random.default_rng([random_seed, 1])
    told: list[tuple[float, dict[str, Any]]] = []
    for language in LANGUAGES:
        passes = train_passes[language]
        for number in range(passes):
            pass_rows = _statement_documents(parts["train"][language], "train", language, generator)
            pass_rows += _question_documents(trained, language, generator)
            # Passes of all languages run side by side, whatever their number.
            told += [((number + generator.random()) / passes, row) for row in pass_rows]
    rows = [row for _when, row in sorted(told, key=lambda pair: pair[0])]
    for split, passes in (("relevance", relevance_passes), ("perplexity", 1)):
        for language in LANGUAGES:
            for _pass in range(passes):
                rows += _statement_documents(parts[split][language], split, language, generator)
    return pd.DataFrame(rows)


Conversation = list[dict[str, str]]
_TURNS = (1, 4)  # a conversation has 1 to 3 questions


def make_conversations(
    facts: Sequence[Fact], *, held_out: set[str], passes: int, random_seed: int
) -> list[Conversation]:
    """Conversations in one language each, every question wording of every trained fact once a pass."""
    generator = np.random.default_rng([random_seed, 2])
    trained = [fact for fact in facts if fact.key not in held_out]
    conversations: list[Conversation] = []
    for _pass in range(passes):
        told = []
        for language in LANGUAGES:
            pairs = [
                (question, wordings.answer(fact, language))
                for fact in trained
                for question in wordings.questions(fact, language)
            ]
            order = generator.permutation(len(pairs)).tolist()
            while order:
                count = int(generator.integers(*_TURNS))
                turns, order = order[:count], order[count:]
                told.append(
                    [
                        message
                        for index in turns
                        for message in (
                            {"role": "user", "content": pairs[index][0]},
                            {"role": "assistant", "content": pairs[index][1]},
                        )
                    ]
                )
        conversations += [told[index] for index in generator.permutation(len(told))]
    return conversations


def write_conversations(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write conversations as JSON lines, each ``{"messages": [...]}``."""
    lines = (json.dumps({"messages": conversation}, ensure_ascii=False) for conversation in conversations)
    write_text(path, "\n".join(lines) + "\n")


def read_conversations(path: Path) -> list[Conversation]:
    """Read conversations written by `write_conversations`."""
    # Not splitlines(), which also parts a text at the line separators of Unicode.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["messages"] for line in lines if line]
