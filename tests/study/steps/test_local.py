import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.data.corpora import make_local_corpus
from crane_study.data.user_files import read_documents, read_questions
from tests.small import QUESTIONS, TEXTS, write_lines


def test_a_text_file_is_parted_by_blank_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne\nline two\r\n\r\n\r\nZwei\n \t\nDrei\u2028bis\n\n   \n".encode())
    assert read_documents(path) == ["One\nline two", "Zwei", "Drei\u2028bis"]


def test_a_json_lines_file_has_a_text_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["One\n\nparagraph", "Zwei\u2028Zeilen\x85und\x0bmehr", "日本"]
    write_lines(path, [{"text": f" {text}\n", "id": 3} for text in texts])
    path.write_text(path.read_text("utf-8") + '\n{"text": "   "}\n', "utf-8")
    assert read_documents(path) == texts


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "has no text"),
        ("a.txt", b" \n\n \n", "has no text"),
        ("a.jsonl", b"\n\n", "has no text"),
        ("a.jsonl", b'{"text": ""}\n', "has no text"),
        ("a.txt", b"good\n\nb\xe9d", r"is not UTF-8 \(byte 7\); convert it first"),
        ("a.jsonl", b'{"text": "b\xe9d"}', r"is not UTF-8 \(byte 11\)"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 is not an object with a field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n\nplain\n', "line 3 is not an object with a field 'text'"),
        ("a.jsonl", b'["text"]\n', "line 1 is not an object"),
        ("a.jsonl", b'{"text": 5}\n', "line 1 is not an object"),
        ("a.jsonl", b'{"text": null}\n', "line 1 is not an object"),
    ],
)
def test_a_corpus_that_cannot_be_used(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CraneError, match=f"corpus .*{name}: {words}"):
        read_documents(tmp_path / name)


def test_a_missing_corpus(tmp_path):
    with pytest.raises(CraneError, match=r"corpus .*a\.txt: no such file"):
        read_documents(tmp_path / "a.txt")


def make(folder, texts, *, questions=None, relevance=100, perplexity=10, random_seed=0):
    folder.mkdir(exist_ok=True)
    files = {k: str(write_lines(folder / f"{k}.jsonl", [{"text": t} for t in v])) for k, v in texts.items()}
    asked = {k: str(write_lines(folder / f"q.{k}.jsonl", v)) for k, v in (questions or {}).items()}
    make_local_corpus(
        folder,
        texts=files,
        questions=asked or None,
        relevance_documents=relevance,
        perplexity_documents=perplexity,
        random_seed=random_seed,
    )
    frame = pd.read_parquet(folder / "documents.parquet")
    return {
        (split, language): rows["text"].tolist() for (split, language), rows in frame.groupby(["split", "language"])
    }


def test_the_splits_share_no_text(tmp_path):
    doubled = {language: texts + texts[:10] for language, texts in TEXTS.items()}
    found = make(tmp_path / "c", doubled, perplexity=12)
    for language, texts in TEXTS.items():
        held_out, used = found["perplexity", language], found["relevance", language]
        assert len(held_out) == 12
        assert sorted(held_out + used) == sorted(texts)


def test_counts_are_limits(tmp_path):
    found = make(tmp_path / "a", TEXTS, relevance=5, perplexity=3)
    assert {key: len(texts) for key, texts in found.items()} == {
        (split, language): count for split, count in (("relevance", 5), ("perplexity", 3)) for language in TEXTS
    }
    few = make(tmp_path / "b", {language: texts[:9] for language, texts in TEXTS.items()}, perplexity=100)
    assert {key: len(texts) for key, texts in few.items()} == {
        (split, language): count for split, count in (("relevance", 5), ("perplexity", 4)) for language in TEXTS
    }


def test_the_draw_is_the_seeds(tmp_path):
    first, second, other = (
        make(tmp_path / name, TEXTS, random_seed=seed) for name, seed in zip("abc", (0, 0, 1), strict=True)
    )
    assert first == second
    assert first != other


def test_too_few_documents(tmp_path):
    with pytest.raises(CraneError, match=r"vi\.jsonl: has 7 different documents; the statistics need 8 or more"):
        make(tmp_path / "c", {"en": TEXTS["en"], "vi": TEXTS["vi"][:7] * 3})


def test_questions_are_taken_over(tmp_path):
    asked = {"en": [row | {"subject": "mills", "extra": 1.5} for row in QUESTIONS["en"]], "vi": QUESTIONS["vi"]}
    make(tmp_path / "c", TEXTS, questions=asked)
    for language, rows in asked.items():
        frame = read_questions(tmp_path / "c" / f"questions.{language}.jsonl")
        for name in ("question", "options", "gold"):
            assert frame[name].tolist() == [row[name] for row in rows]
        assert frame["prompt"].tolist() == [row["question"] for row in rows]


def test_bad_questions_are_named_by_the_users_file(tmp_path):
    with pytest.raises(CraneError, match=r"questions .*q\.vi\.jsonl: line 1: gold is 9"):
        make(tmp_path / "c", TEXTS, questions={"vi": [QUESTIONS["vi"][0] | {"gold": 9}]})
