"""XQuAD as texts and questions, joined by id; where it is neither in a folder nor on the hub, embedded documents."""

import json
from itertools import groupby

import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study import hub
from crane_study.data import xquad
from crane_study.data.xquad import (
    comprehension_questions,
    keep_xquad,
    locate_xquad,
    make_xquad_corpus,
    read_language,
    read_xquad,
)
from crane_study.profile import Knowledge, XQuad

LANGUAGES = ["en", "zh", "vi"]
COUNTS = {"relevance": 64, "perplexity": 8, "questions": 20, "knowledge_questions": 8}
FEW = Knowledge(
    facts_per_subject=20, facts_per_answer=8, question_groups_per_subject=1, relevance_passes=1
).model_dump()


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("CRANE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "cached_dataset", lambda *_given, **_options: None)


@pytest.fixture(scope="session")
def published(shared):
    folder = shared / "data"
    return {language: folder / f"xquad.{language}.json" for language in LANGUAGES}


def write_json_file(folder, language, articles):
    folder.mkdir(exist_ok=True)
    data = [
        {"title": "t", "paragraphs": [{"context": c, "qas": qas(keys)} for c, keys in article]} for article in articles
    ]
    (folder / f"xquad.{language}.json").write_text(json.dumps({"version": "1.1", "data": data}))


def qas(keys):
    return [{"id": k, "question": f"{k}?", "answers": [{"text": a, "answer_start": 0}]} for k, a in keys.items()]


def test_the_published_files_are_read_and_joined(published):
    found = read_xquad(published)
    assert {len(one.paragraphs) for one in found.values()} == {240}
    assert {len(one.questions) for one in found.values()} == {1190}
    rows = comprehension_questions(found, range(240), count=5000, random_seed=0)
    assert len({tuple(row["key"] for row in own) for own in rows.values()}) == 1
    for language, own in rows.items():
        assert len(own) > 500
        assert len({row["key"] for row in own}) == len(own)
        for row in own:
            asked = found[language].questions[row["key"]]
            assert row["options"][row["gold"]] == asked.answer
            assert row["prompt"].startswith(found[language].paragraphs[asked.paragraph])
            assert asked.text in row["prompt"]
            folded = [option.casefold() for option in row["options"]]
            assert not any(a in b for i, a in enumerate(folded) for j, b in enumerate(folded) if i != j)
    golds = pd.Series([row["gold"] for row in rows["en"]]).value_counts(normalize=True)
    assert golds.between(0.18, 0.32).all()
    assert rows["en"][1]["question"] != rows["vi"][1]["question"]
    assert [row["gold"] for row in rows["en"]] == [row["gold"] for row in rows["zh"]]


def test_the_corpus_keeps_the_test_half_away(published, tmp_path):
    files = {language: str(path) for language, path in published.items()}
    make_xquad_corpus(tmp_path, files=files, origin="a folder", knowledge=FEW, counts=COUNTS, random_seed=0)
    found = read_xquad(published)
    frame = pd.read_parquet(tmp_path / "documents.parquet")
    for language, own in found.items():
        here = frame[frame["language"] == language]
        assert here[here["split"] == "relevance"]["text"].tolist() == own.paragraphs[:64]
        assert here[here["split"] == "perplexity"]["text"].tolist() == own.paragraphs[112:120]
        rows = [json.loads(line) for line in (tmp_path / f"questions.{language}.jsonl").read_text().splitlines()]
        assert [row["subject"] == "xquad" for row in rows] == [True] * 20 + [False] * 8
        places = [own.questions[row["key"]].paragraph for row in rows[:20]]
        assert set(places) <= set(range(64, 120))
        assert [row["group"] for row in rows[:20]] == [f"paragraph {place}" for place in places]
        assert len({row["group"] for row in rows[20:]}) == 2
        # questions about a paragraph follow one another, five at most
        assert [number for number, _same in groupby(places)] == list(dict.fromkeys(places))
        assert 4 <= len(set(places)) <= 8
        assert max(places.count(number) for number in places) <= 5
    about = json.loads((tmp_path / "sample.json").read_text())
    assert about["source"] == "XQuAD"
    assert about["paragraphs"] == {"relevance": "0 to 63", "perplexity": "112 to 119"}
    with pytest.raises(CraneError, match=r"200 \+ 8 documents are asked for, the half for development has 120"):
        make_xquad_corpus(
            tmp_path, files=files, origin="", knowledge=FEW, counts=COUNTS | {"relevance": 200}, random_seed=0
        )


def test_without_xquad_the_embedded_documents_serve(tmp_path):
    files, origin = locate_xquad(XQuad(), LANGUAGES)
    assert files == {}
    make_xquad_corpus(tmp_path, files=files, origin=origin, knowledge=FEW, counts=COUNTS, random_seed=0)
    frame = pd.read_parquet(tmp_path / "documents.parquet")
    assert set(frame["split"]) == {"relevance", "perplexity"}
    assert frame.groupby(["split", "language"]).size().loc["perplexity"].tolist() == [8, 8, 8]
    assert (
        json.loads((tmp_path / "sample.json").read_text())["source"] == "embedded documents (CLDR), in place of XQuAD"
    )
    assert len((tmp_path / "questions.zh.jsonl").read_text().splitlines()) == 8


def test_the_folder_comes_first_then_what_was_kept_then_the_hub(tmp_path, monkeypatch):
    for language in LANGUAGES:
        write_json_file(tmp_path / "mine", language, [[("p", {"a": "x"})]])
    assert keep_xquad(tmp_path / "mine", LANGUAGES) == f"XQuAD: kept in {tmp_path / 'cache' / 'xquad'}"
    assert locate_xquad(XQuad(path=tmp_path / "mine"), LANGUAGES)[1] == "a folder"
    files, origin = locate_xquad(XQuad(), LANGUAGES)
    assert origin == "a folder, kept by crane fetch"
    assert files["vi"].parent == tmp_path / "cache" / "xquad"
    files["vi"].unlink()
    monkeypatch.setattr(hub, "cached_dataset", lambda *_given, **_options: tmp_path / "hub")
    assert locate_xquad(XQuad(), LANGUAGES)[0]["zh"] == tmp_path / "hub" / "xquad.zh"
    monkeypatch.setattr(hub, "dataset_files", _no_network)
    assert "embedded documents serve in its place" in keep_xquad(None, LANGUAGES)


def _no_network(*_given, **_options):
    raise CraneError("the hub cannot be reached")


def test_the_hubs_files_are_read_like_the_published_ones(tmp_path):
    write_json_file(tmp_path, "en", [[("one", {"a": "x", "b": "y"})], [("two", {"c": "z"})]])
    frame = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "context": ["one", "one", "two"],
            "question": ["a?", "b?", "c?"],
            "answers": [{"text": [text], "answer_start": [0]} for text in "xyz"],
        }
    )
    (tmp_path / "xquad.en").mkdir()
    frame.to_parquet(tmp_path / "xquad.en" / "validation-00000-of-00001.parquet")
    assert read_language(tmp_path / "xquad.en") == read_language(tmp_path / "xquad.en.json")


@pytest.mark.parametrize(
    ("articles", "words"),
    [
        ([[("p", {})]], "has no questions"),
        ([[("p", {"a": "x"})], [("q", {"a": "x"})]], "question 'a' is there twice"),
        ([[("p", {"b": "x"})]], "question 'a' is in other paragraphs of en and zh"),
    ],
)
def test_files_that_are_no_translations_are_named(articles, words, tmp_path):
    write_json_file(tmp_path, "en", [[("p", {"a": "x"})]])
    write_json_file(tmp_path, "zh", articles)
    with pytest.raises(CraneError, match=words):
        read_xquad({language: xquad.json_file(tmp_path, language) for language in ("en", "zh")})
    (tmp_path / "xquad.vi.json").write_text('{"data": 3}')
    with pytest.raises(CraneError, match="has not the layout of SQuAD"):
        read_language(tmp_path / "xquad.vi.json")
    (tmp_path / "xquad.vi.json").unlink()
    with pytest.raises(CraneError, match=r"has no xquad.vi.json; give the folder"):
        keep_xquad(tmp_path, LANGUAGES)
    with pytest.raises(CraneError, match=r"source.xquad.path: .* has no xquad.vi.json"):
        locate_xquad(XQuad(path=tmp_path), LANGUAGES)
