"""Texts named on the command line: from files and from the hub, their counts, and what is refused."""

import json
import re

import numpy as np
import pytest

from crane_lib.errors import CraneError
from crane_study.data.text_choice import CorpusOptions
from crane_study.own.corpus_files import HubTexts, named_sources, read_corpora, remarks
from crane_study.own.language_check import looks_like
from tests.hub_stub import COMMIT, asked_from_here, hub_stub
from tests.small import TEXTS, write_lines

CARD = "---\nconfigs:\n- config_name: vie_Latn\n  data_files: data/vi.jsonl\n---\n"
FRENCH = [
    f"Dans la ville numéro {n}, la rivière passe devant de vieux moulins et un pont de pierre." for n in range(30)
]


def read(*pairs, **options):
    return read_corpora(named_sources(pairs), CorpusOptions(**options))


@pytest.fixture
def files(tmp_path):
    for language, texts in {**TEXTS, "fr": FRENCH}.items():
        write_lines(tmp_path / f"{language}.jsonl", [{"text": text} for text in texts])
    return tmp_path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    lines = [json.dumps({"body": text, "number": n}, ensure_ascii=False) for n, text in enumerate(TEXTS["vi"])]
    files = {"README.md": CARD.encode(), "data/vi.jsonl": "\n".join(lines).encode()}
    with hub_stub("some/texts", files) as stub:
        asked_from_here(stub, monkeypatch, tmp_path / "cache")
        yield


def test_texts_of_the_hub_are_streamed_at_a_pinned_commit(hub):
    found = read("vie_Latn=hf://some/texts:vie_Latn#body", documents=5)["vie_Latn"]
    assert found.texts == TEXTS["vi"][:5]
    assert found.counts["read"] == 5  # no more
    facts = found.facts([np.arange(3)] * 4)
    assert facts["source"] == f"hf://some/texts@{COMMIT}:vie_Latn:train#body"
    assert (facts["documents"], facts["tokens"], facts["left_out"]["short"]) == (4, 12, 1)
    assert read(f"vi={facts['source']}", documents=5)["vi"].facts([])["sha256"] == facts["sha256"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("some/texts:vie_Latn#text", "dataset some/texts: has no field 'text'; seen body, number"),
        ("some/texts:vie_Latn#number", "field 'number' is not a text but int; name another"),
        ("some/texts:xx#body", "has no config 'xx' with a split 'train'"),
        ("some/texts:vie_Latn:dev#body", "has no config 'vie_Latn' with a split 'dev'"),
        ("some/texts@v2:vie_Latn#body", "has no revision 'v2'"),
        ("some/others#body", "is not on the hub, or not visible without a token"),
    ],
)
def test_mistakes_in_naming_texts_of_the_hub(hub, name, words):
    with pytest.raises(CraneError, match=re.escape(words)) as error:
        read(f"vi=hf://{name}")
    assert "\n" not in str(error.value)


def test_without_a_network_another_way_is_named(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CraneError, match=r"dataset a/b: .* HF_HUB_OFFLINE .*; or give a file of its texts"):
        read("vi=hf://a/b")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(CraneError, match=r"dataset a/b: the hub cannot be reached .*; or give a file of its texts"):
        read("vi=hf://a/b")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b", ("a/b", None, "train", "text", "main")),
        ("a/b@v1.0:x:test#body", ("a/b", "x", "test", "body", "v1.0")),
        ("a/b@refs/convert/parquet::validation", ("a/b", None, "validation", "text", "refs/convert/parquet")),
        ("/data/set:x", ("/data/set", "x", "train", "text", "main")),
    ],
)
def test_names_on_the_hub_have_parts(name, expected):
    found = HubTexts.named(f"hf://{name}")
    assert (found.dataset, found.config, found.split, found.field, found.revision) == expected
    assert HubTexts.named(str(found)) == found


def test_what_is_left_out_and_a_wrong_language_are_told(files):
    write_lines(files / "vi.jsonl", [{"text": text} for text in [*FRENCH, "", *FRENCH[:3], "Ngắn"]])
    found = read(f"en={files}/en.jsonl", f"vie_Latn={files}/vi.jsonl", min_length=10)
    assert found["vie_Latn"].counts == {"read": 35, "empty": 1, "copies": 3, "short": 1, "near_copies": 0}
    dropped, warned = remarks(found)
    assert dropped == "texts left out: vie_Latn 1 empty, 3 copies, 1 short"
    told = "30 of 30 texts look like French, not Vietnamese; is the key vie_Latn right?"
    assert warned == f"{files}/vi.jsonl: {told}"


@pytest.mark.parametrize("language", ["fra_Latn", "fr-CA", "ace_Latn", "fra_Arab", "kbd", "mine", "Hant"])
def test_no_language_is_claimed_to_be_wrong_where_none_is_known(language):
    assert looks_like(FRENCH, language) is None


def test_languages_too_near_to_tell_apart_count_as_one():
    malay = ["Di bandar ketiga, sungai mengalir melepasi enam buah kilang lama dan sebuah jambatan batu kelabu."] * 5
    assert looks_like(malay, "ind_Latn") is looks_like(malay, "zsm_Latn") is None
    assert looks_like(malay, "vi") in (("ms", 5, 5), ("id", 5, 5))
    assert looks_like([*malay[:2], *TEXTS["vi"][:3]], "vi") is None  # most are right
    assert looks_like(["12", "…"], "vi") is None


@pytest.mark.parametrize(
    ("pairs", "options", "words"),
    [
        (["en"], {}, "expected language=file"),
        (["en={0}/none.jsonl"], {}, "there is no file"),
        (["zh_Hnas={0}/en.jsonl"], {}, "did you mean zh_Hans?"),
        (["vi={0}/vi.jsonl", "vie_Latn={0}/en.jsonl"], {}, "languages 'vi' and 'vie_Latn' are the same"),
        (["EN={0}/en.jsonl", "en={0}/vi.jsonl"], {}, "en was given before"),
        (["vi=hf://a/b/c"], {}, "expected hf://OWNER/NAME"),
        (["en={0}/en.jsonl"], {"min_length": 500}, "of 30 texts 0 are taken; 30 short; two or more are needed"),
        (["en={0}/en.jsonl"], {"skip": 29}, "of 30 texts 1 are taken (after the first 29); none left out"),
        (["en={0}/en.jsonl"], {"near_copies": 0.1}, "of 30 texts 1 are taken; 29 near copies"),
        (["en={0}/bad.jsonl"], {}, "line 1: is not an object with a field 'text'"),
    ],
)
def test_mistakes_are_one_line(files, pairs, options, words):
    write_lines(files / "bad.jsonl", [{"body": "x"}])
    with pytest.raises(CraneError, match=re.escape(words)) as error:
        read(*(pair.format(files) for pair in pairs), **options)
    assert "\n" not in str(error.value)
