import json

import pandas as pd
import pytest

from crane_lib.files import read_json
from crane_study.data.cldr import LANGUAGES
from crane_study.data.corpora import make_embedded_corpus
from crane_study.data.documents import read_conversations
from crane_study.data.user_files import read_questions
from crane_study.frames import read_frame

KNOWLEDGE = {
    "facts_per_subject": 12,
    "facts_per_answer": 4,
    "question_groups_per_subject": 1,
    "train_passes": {"en": 1, "zh": 2, "vi": 1},
    "relevance_passes": 1,
    "chat_passes": 1,
}
FILES = {
    "facts.json",
    "documents.parquet",
    "conversations.jsonl",
    "guessers.csv",
    "fact_counts.csv",
    *(f"questions.{language}.jsonl" for language in LANGUAGES),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_embedded_corpus(folder, knowledge=KNOWLEDGE, random_seed=0)
    return folder


def test_the_files(folder):
    assert {path.name for path in folder.iterdir()} == FILES


def test_questions_are_about_the_facts_and_can_be_read(folder):
    facts = {fact["key"]: fact for fact in read_json(folder / "facts.json")}
    for language in LANGUAGES:
        frame = read_questions(folder / f"questions.{language}.jsonl")
        rows = [json.loads(line) for line in (folder / f"questions.{language}.jsonl").open(encoding="utf-8")]
        assert len(frame) == len(rows) > 0
        for row in rows:
            assert facts[row["key"]]["slots"][language]["a"] in row["options"][row["gold"]]
        assert frame["prompt"].ne(frame["question"]).all()


def test_the_counts_agree_with_the_files(folder):
    counts = read_frame(folder / "fact_counts.csv")
    facts = pd.Series([fact["subject"] for fact in read_json(folder / "facts.json")]).value_counts()
    asked = read_questions(folder / "questions.en.jsonl")["subject"].value_counts()
    assert dict(zip(counts["subject"], counts["kept"], strict=True)) == facts.to_dict()
    assert counts["questions"].tolist() == [asked.get(subject, 0) for subject in counts["subject"]]
    assert counts["questions"].sum() == asked.sum()
    assert {f"unnamed_{language}" for language in LANGUAGES} < set(counts)


def test_guessers_are_judged_in_every_language(folder):
    guessers = read_frame(folder / "guessers.csv")
    assert set(zip(guessers["language"], guessers["guesser"], strict=True)) == {
        (language, name) for language in LANGUAGES for name in ("overlap", "answer_frequency", "longest", "shortest")
    }
    assert guessers["accuracy"].between(0, 1).all()
    assert guessers["n"].tolist() == [len(read_questions(folder / "questions.en.jsonl"))] * len(guessers)


def test_training_passes_are_the_languages_own(folder):
    frame = pd.read_parquet(folder / "documents.parquet")
    trained = frame[frame["split"] == "train"]
    told = {
        language: rows["sentences"].explode().value_counts().unique().tolist()
        for language, rows in trained.groupby("language")
    }
    assert told == {"en": [1], "zh": [2], "vi": [1]}
    assert read_conversations(folder / "conversations.jsonl")


def test_the_corpus_is_deterministic(folder, tmp_path):
    make_embedded_corpus(tmp_path, knowledge=KNOWLEDGE, random_seed=0)
    for name in FILES - {"documents.parquet"}:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    again, before = (pd.read_parquet(path / "documents.parquet") for path in (tmp_path, folder))
    pd.testing.assert_frame_equal(again, before)
