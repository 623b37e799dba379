"""Four-way questions about facts, and what a task file holds of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from crane_lib.knowledge import wordings


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
