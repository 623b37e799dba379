"""Corpora: the embedded one, a user's own files, samples of streams; and their documents as tokens."""

import hashlib
import itertools
import json
import unicodedata
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets.exceptions import DatasetNotFoundError

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_run import rehearsal as made_up
from crane_study.data import corpora
from crane_study.data.cldr import LANGUAGES
from crane_study.data.corpora import make_embedded_corpus, make_hub_corpus, make_local_corpus, open_stream
from crane_study.data.documents import read_conversations
from crane_study.data.user_files import read_questions
from crane_study.frames import read_frame
from crane_study.profile import HubText, Sampling
from tests.small import QUESTIONS, TEXTS, small_tokenizer, write_lines

KNOWLEDGE = {"facts_per_subject": 12, "facts_per_answer": 4, "train_passes": {"en": 1, "zh": 2, "vi": 1}}
KNOWLEDGE |= dict.fromkeys(("question_groups_per_subject", "relevance_passes", "chat_passes"), 1)
FILES = {"facts.json", "documents.parquet", "conversations.jsonl", "guessers.csv", "fact_counts.csv"}
FILES |= {f"questions.{language}.jsonl" for language in LANGUAGES}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_embedded_corpus(folder, knowledge=KNOWLEDGE, random_seed=0)
    return folder


def test_questions_counts_and_guessers_agree_with_the_facts(embedded):
    facts = {fact["key"]: fact for fact in read_json(embedded / "facts.json")}
    for language in LANGUAGES:
        path = embedded / f"questions.{language}.jsonl"
        frame, rows = read_questions(path), [json.loads(line) for line in path.open(encoding="utf-8")]
        assert len(frame) == len(rows) > 0
        for row in rows:
            assert facts[row["key"]]["slots"][language]["a"] in row["options"][row["gold"]]
        assert frame["prompt"].ne(frame["question"]).all()
    counts, guessers = (read_frame(embedded / name) for name in ("fact_counts.csv", "guessers.csv"))
    asked = Counter(read_questions(embedded / "questions.en.jsonl")["subject"])
    kept = dict(zip(counts["subject"], counts["kept"], strict=True))
    assert kept == Counter(fact["subject"] for fact in facts.values())
    assert counts["questions"].tolist() == [asked[subject] for subject in counts["subject"]]
    assert {f"unnamed_{language}" for language in LANGUAGES} < set(counts)
    assert set(zip(guessers["language"], guessers["guesser"], strict=True)) == {
        (language, name) for language in LANGUAGES for name in ("overlap", "answer_frequency", "longest", "shortest")
    }
    assert guessers["accuracy"].between(0, 1).all()
    assert set(guessers["n"]) == {asked.total()} == {counts["questions"].sum()}


def test_passes_are_set_per_language_and_the_corpus_is_deterministic(embedded, tmp_path):
    frame = pd.read_parquet(embedded / "documents.parquet")
    trained = frame[frame["split"] == "train"]
    passes = {k: set(rows["sentences"].explode().value_counts()) for k, rows in trained.groupby("language")}
    assert passes == {"en": {1}, "zh": {2}, "vi": {1}}
    assert read_conversations(embedded / "conversations.jsonl")
    make_embedded_corpus(tmp_path, knowledge=KNOWLEDGE, random_seed=0)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for name in FILES - {"documents.parquet"}:
        assert (tmp_path / name).read_bytes() == (embedded / name).read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "documents.parquet"), frame)


def make_local(folder, texts, *, questions=None, relevance=100, perplexity=10, random_seed=0):
    folder.mkdir(exist_ok=True)
    files = {k: str(write_lines(folder / f"{k}.jsonl", [{"text": t} for t in v])) for k, v in texts.items()}
    asked = {k: str(write_lines(folder / f"q.{k}.jsonl", v)) for k, v in (questions or {}).items()}
    sizes = {"relevance_documents": relevance, "perplexity_documents": perplexity}
    make_local_corpus(folder, texts=files, questions=asked or None, **sizes, random_seed=random_seed)
    frame = pd.read_parquet(folder / "documents.parquet")
    return {key: rows["text"].tolist() for key, rows in frame.groupby(["split", "language"])}


def test_the_splits_share_no_text_counts_are_limits_and_the_random_seed_decides(tmp_path):
    again = {"en": TEXTS["en"][:10], "vi": [unicodedata.normalize("NFD", text) for text in TEXTS["vi"]]}
    doubled = {language: texts + again[language] for language, texts in TEXTS.items()}
    found = make_local(tmp_path / "c", doubled, perplexity=12)
    for language, texts in TEXTS.items():
        held_out, used = found["perplexity", language], found["relevance", language]
        assert len(held_out) == 12
        assert sorted(held_out + used) == sorted(texts)
    for given, perplexity, expected in ((30, 3, 3), (9, 100, 4)):
        texts = {language: texts[:given] for language, texts in TEXTS.items()}
        found = make_local(tmp_path / "a", texts, relevance=5, perplexity=perplexity)
        assert {len(texts) for (split, _language), texts in found.items() if split == "relevance"} == {5}
        assert {len(texts) for (split, _language), texts in found.items() if split == "perplexity"} == {expected}
    with pytest.raises(CraneError, match=r"vi\.jsonl: has 7 different documents; the statistics need 8 or more"):
        make_local(tmp_path / "c", {"en": TEXTS["en"], "vi": TEXTS["vi"][:7] * 3})
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS["vi"]), "utf-8")
    sizes = {"relevance_documents": 9, "perplexity_documents": 3, "random_seed": 0}
    with pytest.raises(CraneError, match=r"lines\.txt: has 1 different documents; .*; blank lines separate documents"):
        make_local_corpus(tmp_path / "c", texts={"vi": str(tmp_path / "lines.txt")}, questions=None, **sizes)
    first, second, other = (make_local(tmp_path / name, TEXTS, random_seed=seed) for name, seed in ("a0", "b0", "c1"))
    assert first == second != other


def test_questions_are_copied(tmp_path):
    asked = {"en": [row | {"subject": "mills", "extra": 1.5} for row in QUESTIONS["en"]], "vi": QUESTIONS["vi"]}
    make_local(tmp_path / "c", TEXTS, questions=asked)
    for language, rows in asked.items():
        frame = read_questions(tmp_path / "c" / f"questions.{language}.jsonl")
        for name in ("question", "options", "gold"):
            assert frame[name].tolist() == [row[name] for row in rows]
        assert frame["prompt"].tolist() == [row["question"] for row in rows]
    with pytest.raises(CraneError, match=r"questions .*q\.vi\.jsonl: line 1: gold is 9"):
        make_local(tmp_path / "c", TEXTS, questions={"vi": [QUESTIONS["vi"][0] | {"gold": 9}]})


SAMPLING = {"random_seed": 42, "shards": 3, "window": 0}


def drawn(count, of, **options):
    return sample_rows([{"text": f"text {n}"} for n in range(of)], count, **options)


def sample_rows(rows, count, *, window=0, seed=0):
    return corpora.sample_shard(iter(rows), count, name="x", field="text", window=window, random_seed=[seed, 1])


def test_every_document_of_a_shard_has_the_same_chance():
    trials = 3000
    counts = Counter(place for seed in range(trials) for place in drawn(5, 20, seed=seed)["place"])
    found = np.array([counts[place] for place in range(20)])
    expected, spread = trials / 4, np.sqrt(trials * 0.25 * 0.75)
    assert found.sum() == 5 * trials
    assert (abs(found - expected) < 4.5 * spread).all()


def test_a_window_limits_the_reading_and_the_seed_decides():
    first = drawn(5, 1000, window=10)
    assert first["place"].max() < 10
    assert first["place"].is_monotonic_increasing
    pd.testing.assert_frame_equal(first, drawn(5, 1000, window=10))
    assert not first.equals(drawn(5, 1000, window=10, seed=1))
    assert len(drawn(5, 3)) == 3
    # Empty texts are not drawn, and an unsuitable field is named.
    found = sample_rows([{"text": text} for text in ("", "a", None, "  ", "b")], 9)
    assert found["text"].tolist() == ["a", "b"]
    with pytest.raises(CraneError, match="dataset x: has no field 'text'; seen body"):
        sample_rows([{"body": "a"}], 2)
    with pytest.raises(CraneError, match="dataset x: field 'text' is not a text but list"):
        sample_rows([{"text": ["a", "b"]}], 2)


@pytest.fixture
def published(tmp_path):
    made_up.write_corpus(tmp_path / "set", "en", config="en", split="train", field="text", documents=80)
    return HubText(dataset=str(tmp_path / "set"), config="en").model_dump(mode="json")


def sampled(text, count, scratch=None, **changes):
    stream = open_stream(text)
    return corpora.sample_stream(stream, count, name="set", field="text", sampling=SAMPLING | changes, scratch=scratch)


def test_a_sample_comes_from_the_requested_number_of_shards(published):
    found = sampled(published, 24)
    assert len(found) == found["text"].nunique() == 24
    assert found["shard"].nunique() == 3
    pd.testing.assert_frame_equal(found, sampled(published, 24))
    assert not found.equals(sampled(published, 24, random_seed=43))
    # Further shards are read if the first do not suffice.
    assert len(sampled(published, 36, shards=1, window=10)) == 36
    assert len(sampled(published, 500)) == 80  # all there is


def test_an_interrupted_sample_continues(published, tmp_path, monkeypatch):
    whole = sampled(published, 24)
    calls = []
    real = corpora.sample_shard

    def counting(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(corpora, "sample_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        sampled(published, 24, scratch=tmp_path / "scratch")
    assert len(list((tmp_path / "scratch").glob("*.parquet"))) == 2
    again = sampled(published, 24, scratch=tmp_path / "scratch")
    assert len(calls) == 4  # only the missing shard
    pd.testing.assert_frame_equal(again, whole)


def test_the_stage_writes_documents_with_ids_and_hashes(published, tmp_path):
    made_up.write_text_file(tmp_path / "vi.jsonl", "vi", documents=30)
    texts = {"en": published, "vi": HubText(file=tmp_path / "vi.jsonl").model_dump(mode="json")}
    sizes = {"relevance_documents": 16, "perplexity_documents": 4, "sampling": Sampling(shards=2).model_dump()}
    make_hub_corpus(tmp_path / "out", scratch=tmp_path / "scratch", texts=texts, **sizes)
    frame = pd.read_parquet(tmp_path / "out/documents.parquet")
    assert frame.groupby(["language", "split"]).size().to_dict() == {
        (language, split): count for language in texts for split, count in (("perplexity", 4), ("relevance", 16))
    }
    assert frame["text"].is_unique
    assert frame["id"].is_unique
    assert frame.loc[0, "sha256"] == hashlib.sha256(frame.loc[0, "text"].encode()).hexdigest()
    place = frame[frame["language"] == "vi"].iloc[0]
    lines = (tmp_path / "vi.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[int(place["id"].removeprefix("vi.jsonl#"))])["text"] == place["text"]
    about = read_json(tmp_path / "out/sample.json")["languages"]["en"]
    assert (about["config"], about["documents"]) == ("en", 20)


def test_a_wrong_configuration_a_gated_corpus_and_a_missing_one_are_one_line(published, monkeypatch):
    for field, value in (("config", "xx"), ("split", "dev")):
        with pytest.raises(CraneError, match=rf"has no config '\w+' with a split '\w+' \(.*{value}") as error:
            open_stream(published | {field: value})
        assert "\n" not in str(error.value)
    for reason, message in (
        ("Dataset 'a/b' is a gated dataset on the Hub.", r"is gated; accept its terms on .*/datasets/a/b and log in"),
        ("Dataset 'a/b' doesn't exist on the Hub.", "is not on the hub, or not visible without a token"),
    ):

        def refuse(*_arguments, reason=reason, **_options):
            raise DatasetNotFoundError(reason)

        monkeypatch.setattr(datasets, "load_dataset", refuse)
        with pytest.raises(CraneError, match=f"dataset a/b: {message}"):
            open_stream({"dataset": "a/b", "config": None, "split": "train", "revision": "main"})


@pytest.mark.parametrize("mark", ["[", "*", "?", "::"])
def test_a_folder_whose_name_would_be_a_pattern_is_refused(tmp_path, mark):
    folder = tmp_path / f"pbs{mark}3]"
    folder.mkdir()
    with pytest.raises(
        CraneError, match=r"its path contains '(\[|\*|\?|::)', which datasets takes for a pattern; rename"
    ):
        open_stream({"dataset": str(folder), "config": None, "split": "train", "revision": "main"})


def test_a_text_in_two_unicode_forms_is_drawn_once():
    texts = ["Hà Nội", unicodedata.normalize("NFD", "Hà Nội"), "Huế"]
    stream = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset()
    found = corpora.sample_stream(stream, 3, name="set", field="text", sampling=SAMPLING, scratch=None)
    assert len(found) == 2


def test_documents_are_tokenized_cut_and_not_empty(monkeypatch):
    keys = itertools.product(("relevance", "perplexity"), TEXTS)
    rows = [(split, language, text) for split, language in keys for text in ["", *TEXTS[language][:4]]]
    frame, tokenizer = pd.DataFrame(rows, columns=["split", "language", "text"]), small_tokenizer()
    found = corpora.tokenized(frame, tokenizer, split="relevance", language="vi", max_length=9)
    assert [document.tolist() for document in found] == [tokenizer(text)["input_ids"][:9] for text in TEXTS["vi"][:4]]
    assert {document.dtype for document in found} == {np.dtype(np.int64)}
    whole = corpora.tokenized(frame, tokenizer, split="perplexity", language="en", max_length=1000)
    assert [tokenizer.decode(document[1:]) for document in whole] == TEXTS["en"][:4]
    for split, language, length in (("train", "en", 9), ("relevance", "de", 9), ("relevance", "en", 1)):
        with pytest.raises(CraneError, match=f"corpus: has no {split} documents in '{language}'; give it more text"):
            corpora.tokenized(frame, tokenizer, split=split, language=language, max_length=length)
    whole = corpora.token_ids(TEXTS["en"], tokenizer, max_length=20)
    monkeypatch.setattr(corpora, "_AT_ONCE", 7)
    parts = corpora.token_ids(TEXTS["en"], tokenizer, max_length=20)
    assert [document.tolist() for document in parts] == [document.tolist() for document in whole]
    assert len(parts) == len(TEXTS["en"])
