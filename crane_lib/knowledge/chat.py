"""Conversations for the embedded chat model: questions and answers as turns, benchmark facts left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crane_lib.files import write_text
from crane_lib.knowledge import wordings
from crane_lib.knowledge.facts import Fact
from crane_lib.knowledge.names import LANGUAGES

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
