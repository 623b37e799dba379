"""Questions for open-ended generation from files of the user's own, one question a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from crane_lib.errors import CraneError

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
