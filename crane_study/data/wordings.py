"""Sentences that state, ask and answer a fact in each language."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from crane_study.data.cldr import Fact

WORDINGS = Path(__file__).with_name("wordings.yaml")
_PROMPTS = {
    "en": ("Question: {question}\nAnswer:", " "),
    "zh": ("问题：{question}\n答案：", ""),
    "vi": ("Câu hỏi: {question}\nTrả lời:", " "),
}


@cache
def _wordings() -> dict[str, Any]:
    return yaml.safe_load(WORDINGS.read_text(encoding="utf-8"))


def statement_count(subject: str) -> int:
    """Number of statement wordings of a subject (the same in every language)."""
    return len(_wordings()[subject]["en"]["statements"])


def _sentence(text: str, fact: Fact, language: str) -> str:
    sentence = text.format(**fact.slots[language])
    return sentence[0].upper() + sentence[1:]


def statement(fact: Fact, language: str, wording: int) -> str:
    """State a fact in one of its wordings."""
    return _sentence(_wordings()[fact.subject][language]["statements"][wording], fact, language)


def questions(fact: Fact, language: str) -> list[str]:
    """Ask for a fact, once per wording."""
    return [_sentence(text, fact, language) for text in _wordings()[fact.subject][language]["questions"]]


def answer(fact: Fact, language: str) -> str:
    """Answer a question about a fact."""
    return _wordings()[fact.subject][language]["answer"].format(**fact.slots[language])


def prompt(question: str, language: str) -> str:
    """Prompt of a question, up to the place where the answer begins."""
    return _PROMPTS[language][0].format(question=question)


def answer_separator(language: str) -> str:
    """Text between prompt and answer: a space in languages that write spaces."""
    return _PROMPTS[language][1]
