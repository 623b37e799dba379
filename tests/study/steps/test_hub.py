"""Samples from streams: seeded, uniform over what is read, resumed after a kill, with ids and hashes."""

import hashlib
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_run import rehearsal as made_up
from crane_study.data import corpora as hub
from crane_study.data.corpora import make_hub_corpus, open_stream, sample_shard, sample_stream
from crane_study.profile import HubText, Sampling

SAMPLING = {"random_seed": 42, "shards": 3, "window": 0}


def rows(count, *, field="text"):
    return iter([{field: f"text {n}"} for n in range(count)])


def drawn(count, of, *, window=0, seed=0):
    return sample_shard(rows(of), count, name="x", field="text", window=window, random_seed=[seed, 1])


def test_every_document_of_a_shard_has_the_same_chance():
    trials = 3000
    counts = Counter(place for seed in range(trials) for place in drawn(5, 20, seed=seed)["place"])
    found = np.array([counts[place] for place in range(20)])
    expected, spread = trials / 4, np.sqrt(trials * 0.25 * 0.75)
    assert found.sum() == 5 * trials
    assert (abs(found - expected) < 4.5 * spread).all()


def test_a_window_ends_the_reading_and_the_seed_decides():
    first = drawn(5, 1000, window=10)
    assert first["place"].max() < 10
    assert first["place"].is_monotonic_increasing
    pd.testing.assert_frame_equal(first, drawn(5, 1000, window=10))
    assert not first.equals(drawn(5, 1000, window=10, seed=1))
    assert len(drawn(5, 3)) == 3


def test_empty_texts_are_not_drawn():
    given = iter([{"text": text} for text in ("", "a", None, "  ", "b")])
    found = sample_shard(given, 9, name="x", field="text", window=0, random_seed=[0])
    assert found["text"].tolist() == ["a", "b"]


def test_a_missing_field_is_named():
    with pytest.raises(CraneError, match="dataset x: has no field 'text'; seen body"):
        sample_shard(rows(3, field="body"), 2, name="x", field="text", window=0, random_seed=[0])


def test_a_field_that_is_no_text_is_named():
    given = iter([{"text": ["a", "b"]}])
    with pytest.raises(CraneError, match="dataset x: field 'text' is not a text but list"):
        sample_shard(given, 2, name="x", field="text", window=0, random_seed=[0])


@pytest.fixture
def corpus(tmp_path):
    made_up.write_corpus(tmp_path / "set", "en", config="en", split="train", field="text", documents=80)
    return HubText(dataset=str(tmp_path / "set"), config="en").model_dump(mode="json")


def sampled(corpus, count, scratch=None, **changes):
    stream = open_stream(corpus)
    return sample_stream(stream, count, name="set", field="text", sampling=SAMPLING | changes, scratch=scratch)


def test_a_sample_comes_from_as_many_shards_as_asked_for(corpus):
    found = sampled(corpus, 24)
    assert len(found) == found["text"].nunique() == 24
    assert found["shard"].nunique() == 3
    pd.testing.assert_frame_equal(found, sampled(corpus, 24))
    assert not found.equals(sampled(corpus, 24, random_seed=43))


def test_further_shards_are_read_where_the_first_do_not_suffice(corpus):
    assert len(sampled(corpus, 36, shards=1, window=10)) == 36
    assert len(sampled(corpus, 500)) == 80  # all there is


def test_an_interrupted_sample_goes_on(corpus, tmp_path, monkeypatch):
    whole = sampled(corpus, 24)
    calls = []
    real = hub.sample_shard

    def counting(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(hub, "sample_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        sampled(corpus, 24, scratch=tmp_path / "scratch")
    assert len(list((tmp_path / "scratch").glob("*.parquet"))) == 2
    again = sampled(corpus, 24, scratch=tmp_path / "scratch")
    assert len(calls) == 4  # only the shard that was missing
    pd.testing.assert_frame_equal(again, whole)


def test_the_stage_writes_documents_with_ids_and_hashes(corpus, tmp_path):
    made_up.write_text_file(tmp_path / "vi.jsonl", "vi", documents=30)
    texts = {"en": corpus, "vi": HubText(file=tmp_path / "vi.jsonl").model_dump(mode="json")}
    (tmp_path / "out").mkdir()
    make_hub_corpus(
        tmp_path / "out",
        scratch=tmp_path / "scratch",
        texts=texts,
        relevance_documents=16,
        perplexity_documents=4,
        sampling=Sampling(shards=2).model_dump(),
    )
    frame = pd.read_parquet(tmp_path / "out/documents.parquet")
    assert frame.groupby(["language", "split"]).size().to_dict() == {
        ("en", "perplexity"): 4,
        ("en", "relevance"): 16,
        ("vi", "perplexity"): 4,
        ("vi", "relevance"): 16,
    }
    assert frame["text"].is_unique
    assert frame["id"].is_unique
    assert frame.loc[0, "sha256"] == hashlib.sha256(frame.loc[0, "text"].encode()).hexdigest()
    place = frame[frame["language"] == "vi"].iloc[0]
    lines = (tmp_path / "vi.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[int(place["id"].removeprefix("vi.jsonl#"))])["text"] == place["text"]
    about = json.loads((tmp_path / "out/sample.json").read_text())
    assert about["languages"]["en"]["config"] == "en"
    assert about["languages"]["en"]["documents"] == 20


def test_a_wrong_configuration_is_one_line(corpus):
    with pytest.raises(CraneError, match="has no config 'xx' with a split 'train'") as error:
        open_stream(corpus | {"config": "xx"})
    assert "\n" not in str(error.value)
    with pytest.raises(CraneError, match="with a split 'dev'"):
        open_stream(corpus | {"split": "dev"})


def test_a_gated_corpus_is_told_from_a_missing_one(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def refuse(*_arguments, **_options):
        raise DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub. You must be authenticated.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(CraneError, match=r"dataset a/b: is gated; accept its terms on .*/datasets/a/b and log in"):
        open_stream({"dataset": "a/b", "config": None, "split": "train", "revision": "main"})
