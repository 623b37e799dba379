"""The sentences: how a fact is stated, asked and answered in each language (texts in ``wordings.yaml``)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from crane_study.data.cldr import Fact

_PROMPTS = {
    "en": ("Question: {question}\nAnswer:", " "),
    "zh": ("问题：{question}\n答案：", ""),
    "vi": ("Câu hỏi: {question}\nTrả lời:", " "),
}


@cache
def _wordings() -> dict[str, Any]:
    return yaml.safe_load((files("crane_study.data") / "wordings.yaml").read_text(encoding="utf-8"))


def statement_count(subject: str) -> int:
    """Number of statement wordings a subject has (the same in every language)."""
    return len(_wordings()[subject]["en"]["statements"])


def _capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def statement(fact: Fact, language: str, wording: int) -> str:
    """The fact as a sentence, in one of its wordings."""
    return _capitalized(_wordings()[fact.subject][language]["statements"][wording].format(**fact.slots[language]))


def questions(fact: Fact, language: str) -> list[str]:
    """The fact as questions, one a wording."""
    texts = _wordings()[fact.subject][language]["questions"]
    return [_capitalized(text.format(**fact.slots[language])) for text in texts]


def answer(fact: Fact, language: str) -> str:
    """The words that answer a question about the fact."""
    return _wordings()[fact.subject][language]["answer"].format(**fact.slots[language])


def prompt(question: str, language: str) -> str:
    """A question as the model is asked it, ending where the answer begins."""
    return _PROMPTS[language][0].format(question=question)


def answer_separator(language: str) -> str:
    """What stands between the prompt and the answer: a space where the language writes spaces."""
    return _PROMPTS[language][1]
