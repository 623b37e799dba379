"""Stage: the embedded study's facts, documents, questions and conversations."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from crane_lib.files import write_frame, write_json, write_text
from crane_lib.knowledge import wordings
from crane_lib.knowledge.benchmark import form_questions
from crane_lib.knowledge.chat import make_conversations, write_conversations
from crane_lib.knowledge.documents import write_documents
from crane_lib.knowledge.facts import Fact, FactReport, collect_facts
from crane_lib.knowledge.guessers import answer_frequency, expected_accuracy, longest, overlap, shortest
from crane_lib.knowledge.names import LANGUAGES
from crane_lib.knowledge.questions import Question
from crane_lib.profile_options import Knowledge


def _guesser_rows(facts: list[Fact], questions: dict[str, list[Question]], held_out: set[str]) -> pd.DataFrame:
    """Expected accuracy of every guesser in every language; the frequency guesser has seen the training questions."""
    rows = []
    for language, asked in questions.items():
        answers = [wordings.answer(fact, language) for fact in facts if fact.key not in held_out]
        guessers = {
            "overlap": overlap,
            "answer_frequency": answer_frequency(answers),
            "longest": longest,
            "shortest": shortest,
        }
        rows += [(language, name, expected_accuracy(asked, guesser), len(asked)) for name, guesser in guessers.items()]
    return pd.DataFrame(rows, columns=["language", "guesser", "accuracy", "n"])


def _count_rows(reports: list[FactReport], questions: list[Question]) -> pd.DataFrame:
    """How many facts of each subject CLDR states, cannot name in a language, and were kept, and asked about."""
    asked = Counter(question.subject for question in questions)
    return pd.DataFrame(
        {
            "subject": report.subject,
            "stated": report.stated,
            **{f"unnamed_{language}": report.unnamed.get(language, 0) for language in LANGUAGES},
            "kept": report.kept,
            "questions": asked[report.subject],
        }
        for report in reports
    )


def make_embedded_corpus(folder: Path, *, knowledge: dict[str, Any], random_seed: int) -> None:
    """Write facts.json, fact_counts.csv, documents.parquet, conversations.jsonl, questions.*.jsonl, guessers.csv."""
    options = Knowledge(**knowledge)
    facts, reports = collect_facts(
        per_subject=options.facts_per_subject, per_answer=options.facts_per_answer, random_seed=random_seed
    )
    questions = form_questions(facts, groups_per_subject=options.question_groups_per_subject, random_seed=random_seed)
    held_out = {question.key for question in questions[LANGUAGES[0]]}
    documents = write_documents(
        facts,
        held_out=held_out,
        train_passes={str(language): count for language, count in options.train_passes.items()},
        relevance_passes=options.relevance_passes,
        random_seed=random_seed,
    )
    conversations = make_conversations(facts, held_out=held_out, passes=options.chat_passes, random_seed=random_seed)
    write_json(folder / "facts.json", [asdict(fact) for fact in facts])
    write_frame(folder / "documents.parquet", documents)
    write_conversations(folder / "conversations.jsonl", conversations)
    for language, asked in questions.items():
        lines = (json.dumps(question.to_row(), ensure_ascii=False) for question in asked)
        write_text(folder / f"questions.{language}.jsonl", "\n".join(lines) + "\n")
    write_frame(folder / "guessers.csv", _guesser_rows(facts, questions, held_out))
    write_frame(folder / "fact_counts.csv", _count_rows(reports, questions[LANGUAGES[0]]))
