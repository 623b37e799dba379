"""Files that users bring: documents, open questions and multiple-choice questions, checked line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from crane_lib.errors import CraneError

OPEN_COLUMNS = ("language", "question", "key", "subject", "text", "answer", "answer_key")
_FIELDS = ("question", "options", "gold")


def _content(path: Path, kind: str) -> str:
    if not path.is_file():
        raise CraneError(f"{kind} {path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CraneError(f"{kind} {path}: is not UTF-8 (byte {error.start}); convert it first") from error


def _lines(content: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1."""
    # Not splitlines(), which also splits a text at the line separators of Unicode.
    return ((number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip())


def read_documents(path: Path) -> list[str]:
    """Read the documents of a text file (separated by blank lines) or of a JSON-lines file (fields ``text``)."""
    content = _content(path, "corpus")
    texts = []
    if path.suffix == ".jsonl":
        for number, line in _lines(content):
            try:
                texts.append(json.loads(line)["text"].strip())
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise CraneError(f"corpus {path}: line {number} is not an object with a field 'text'") from error
    else:
        texts = [part.strip() for part in re.split(r"\n[^\S\n]*\n", content.replace("\r\n", "\n"))]
    texts = [text for text in texts if text]
    if not texts:
        raise CraneError(f"corpus {path}: has no text")
    return texts


def _open_questions(path: Path) -> list[str]:
    questions = [line.strip() for _number, line in _lines(_content(path, "open questions"))]
    if not questions:
        raise CraneError(f"open questions {path}: has no questions; put one on each line")
    for number, question in enumerate(questions, start=1):
        first = questions.index(question) + 1
        if first < number:
            raise CraneError(f"open questions {path}: question {number} repeats question {first}; remove one")
    return questions


def read_open_questions(paths: Mapping[str, Path]) -> pd.DataFrame:
    """Read one text file per language, one question per line; line n means the same in every language.

    Returns `OPEN_COLUMNS`; subject, answer and answer_key are empty, because no expected answer is known.
    """
    by_language = {language: _open_questions(Path(path)) for language, path in paths.items()}
    if len({len(questions) for questions in by_language.values()}) > 1:
        counts = ", ".join(f"{language} {len(questions)}" for language, questions in by_language.items())
        raise CraneError(f"open questions: languages have different numbers of questions ({counts}); align the files")
    rows = [
        (language, number, f"question/{number + 1}", "", text, "", "")
        for language, questions in by_language.items()
        for number, text in enumerate(questions)
    ]
    return pd.DataFrame(rows, columns=list(OPEN_COLUMNS))


def _checked_question(row: Any) -> dict[str, Any]:
    """Return the fields of one question; a ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("is not an object of question, options and gold")
    for name in _FIELDS:
        if name not in row:
            raise ValueError(f"has no field {name!r}; needs {', '.join(_FIELDS)}")
    question, options, gold = (row[name] for name in _FIELDS)
    prompt = row.get("prompt", question)
    if not all(isinstance(text, str) and text.strip() for text in (question, prompt)):
        raise ValueError("its question or prompt is not a text")
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o for o in options):
        raise ValueError("its options are not a list of two or more texts")
    if type(gold) is not int or not 0 <= gold < len(options):
        raise ValueError(f"gold is {gold!r}, expected the index of one of its {len(options)} options, from 0")
    return {"question": question, "prompt": prompt, "options": options, "gold": gold, "subject": row.get("subject", "")}


def read_questions(path: Path) -> pd.DataFrame:
    """Read multiple-choice questions from a JSON-lines file.

    Returns question, prompt (the question unless given), options (list of texts), gold (index) and subject.
    """
    rows = []
    for number, line in _lines(_content(path, "questions")):
        try:
            rows.append(_checked_question(json.loads(line)))
        except ValueError as error:
            problem = f"is not JSON ({error})" if isinstance(error, json.JSONDecodeError) else error
            raise CraneError(f"questions {path}: line {number}: {problem}") from error
    if not rows:
        raise CraneError(f"questions {path}: has no questions")
    return pd.DataFrame(rows)
