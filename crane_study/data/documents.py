"""Documents for training, relevance and perplexity, with no sentence in common.

Of the statement wordings of a fact in a language, one is reserved for the relevance documents and one for the
perplexity documents; only the others are trained on. Questions about a benchmark fact are in no training document, in
any language.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.files import write_text
from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, Fact

DOCUMENT_COLUMNS = ["split", "language", "kind", "text", "sentences"]  # sentences: list of fact#wording or fact?wording
SPLITS = ("train", "relevance", "perplexity")
_SENTENCES = (4, 9)  # a document has 4 to 8 sentences
_PAIRS = (2, 6)  # a document of questions and answers has 2 to 5 pairs
_TURNS = (1, 4)  # a conversation has 1 to 3 questions

_Wording = tuple[Fact, int]
_Row = tuple[str, str, str, str, list[str]]  # of `DOCUMENT_COLUMNS`
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
) -> list[_Row]:
    """Documents that together state every sentence once."""
    rows = []
    for run in _runs(pairs, _SENTENCES, generator):
        texts = [wordings.statement(fact, language, wording) for fact, wording in run]
        keys = [f"{fact.key}#{wording}" for fact, wording in run]
        rows.append((split, language, "statements", wordings.answer_separator(language).join(texts), keys))
    return rows


def _question_documents(facts: Sequence[Fact], language: str, generator: np.random.Generator) -> list[_Row]:
    """Documents that together ask and answer every question wording of every fact once."""
    asked = [(fact, *pair) for fact in facts for pair in enumerate(wordings.questions(fact, language))]
    rows = []
    for run in _runs(asked, _PAIRS, generator):
        texts = [
            wordings.prompt(question, language) + wordings.answer_separator(language) + wordings.answer(fact, language)
            for fact, _wording, question in run
        ]
        keys = [f"{fact.key}?{wording}" for fact, wording, _question in run]
        rows.append(("train", language, "questions", "\n\n".join(texts), keys))
    return rows


def write_documents(
    facts: Sequence[Fact],
    *,
    held_out: set[str],
    train_passes: Mapping[str, int],
    relevance_passes: int,
    random_seed: int,
) -> pd.DataFrame:
    """Write all documents of the study, in the order of training.

    `train_passes` are repetitions of the training sentences per language, each time in other documents: more of them
    for a language that says the same in fewer tokens. Questions about the benchmark facts (`held_out`) are not trained
    on. Returns `DOCUMENT_COLUMNS`, of kind statements or questions.
    """
    parts = split_wordings(facts, random_seed=random_seed)
    trained = [fact for fact in facts if fact.key not in held_out]
    generator = np.random.default_rng([random_seed, 1])
    placed: list[tuple[float, _Row]] = []
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
    return pd.DataFrame(rows, columns=DOCUMENT_COLUMNS)


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
            turns = [
                [{"role": "user", "content": q}, {"role": "assistant", "content": wordings.answer(fact, language)}]
                for fact in trained
                for q in wordings.questions(fact, language)
            ]
            written += [list(chain.from_iterable(run)) for run in _runs(turns, _TURNS, generator)]
        conversations += [written[index] for index in generator.permutation(len(written))]
    return conversations


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_conversations(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write conversations as JSON lines, each ``{"messages": [...]}``."""
    write_lines(path, [{"messages": conversation} for conversation in conversations])


def read_conversations(path: Path) -> list[Conversation]:
    """Read conversations written by `write_conversations`."""
    # Not splitlines(), which also splits a text at the line separators of Unicode.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["messages"] for line in lines if line]
