"""Parts of one language's documents, on the embedded corpus of a few facts."""

from collections import Counter

import pandas as pd
import pytest

from crane_lib.files import read_json
from crane_study.data import wordings
from crane_study.data.cldr import Fact
from crane_study.data.corpora import make_embedded_corpus, make_local_corpus
from crane_study.data.partitions import make_partitions, part_names, subjects
from crane_study.profile import load_profile
from tests.small import TEXTS, write_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("partitions")
    (root / "corpus").mkdir()
    make_embedded_corpus(root / "corpus", knowledge=load_profile("smoke").source.knowledge.model_dump(), random_seed=0)
    make_partitions(root / "parts", corpus=root / "corpus", random_seed=0)
    whole, parts = (pd.read_parquet(root / name / "documents.parquet") for name in ("corpus", "parts"))
    return root, whole, parts


def test_every_held_out_document_is_in_one_third(made):
    _root, whole, parts = made
    for language in ("en", "zh", "vi"):
        own = whole[(whole["split"] == "perplexity") & (whole["language"] == language)]
        thirds = [parts[parts["language"] == f"{language}-{number}"] for number in (1, 2, 3)]
        texts = [text for part in thirds for text in part["text"]]
        assert sorted(texts) == sorted(own["text"])
        assert texts != own["text"].tolist()
        assert max(map(len, thirds)) - min(map(len, thirds)) <= 1
        assert all((part["split"] == "perplexity").all() for part in thirds)


def test_documents_about_a_subject_state_its_sentences_once_and_no_others(made):
    root, whole, parts = made
    facts = {row["key"]: Fact(**row) for row in read_json(root / "corpus" / "facts.json")}
    chosen = subjects(facts.values())
    counts = Counter(fact.subject for fact in facts.values())
    assert min(counts[name] for name in chosen) >= max(counts[name] for name in counts if name not in chosen)
    for split in ("relevance", "perplexity"):
        for subject in chosen:
            found = parts[(parts["language"] == f"vi-{subject}") & (parts["split"] == split)]
            keys = [key for sentences in found["sentences"] for key in sentences]
            of_whole = whole[(whole["language"] == "vi") & (whole["split"] == split)]["sentences"]
            wanted = [key for sentences in of_whole for key in sentences if key.startswith(f"{subject}/")]
            assert sorted(keys) == sorted(wanted)
            key, _mark, wording = found["sentences"].iloc[0][0].partition("#")
            assert found["text"].iloc[0].startswith(wordings.statement(facts[key], "vi", int(wording)))


def test_names_of_parts(made, tmp_path):
    root, _whole, _parts = made
    assert part_names(root / "parts", "en", kind="thirds") == ["en-1", "en-2", "en-3"]
    assert len(part_names(root / "parts", "en", kind="subjects")) == 3
    assert part_names(root / "parts", "e", kind="thirds") == []
    (tmp_path / "corpus").mkdir()
    texts = {k: str(write_lines(tmp_path / f"{k}.jsonl", [{"text": t} for t in v])) for k, v in TEXTS.items()}
    sizes = {"relevance_documents": 10, "perplexity_documents": 4}
    make_local_corpus(tmp_path / "corpus", texts=texts, questions=None, **sizes, random_seed=0)
    make_partitions(tmp_path / "parts", corpus=tmp_path / "corpus", random_seed=0)
    assert part_names(tmp_path / "parts", "vi", kind="subjects") == []
