"""Options of the commands that read texts: what is taken, recorded and refused."""

import json
from unittest.mock import Mock

import pandas as pd
import pytest

from crane_lib.files import read_json
from crane_lib.neurons import read_neuron_sets
from tests.run.program import call
from tests.small import TEXTS, write_lines, write_model
from tools import many_languages

FRENCH = [
    f"Dans la ville numéro {n}, la rivière passe devant de vieux moulins et un pont de pierre." for n in range(12)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, texts under the codes of FLORES with copies and short ones, and French ones."""
    root = tmp_path_factory.mktemp("corpora")
    write_model(root / "model")
    extra = {"eng_Latn": [" ", TEXTS["en"][0]], "vie_Latn": ["ngắn", TEXTS["vi"][3]]}
    for language, texts in zip(extra, TEXTS.values(), strict=True):
        write_lines(root / f"{language}.jsonl", [{"text": text} for text in [*texts, *extra[language]]])
    write_lines(root / "fr.jsonl", [{"text": text} for text in FRENCH])
    return root


def given(root, *pairs):
    named = [
        part for pair in pairs for part in ("--corpus", f"{pair.partition('=')[0]}={root / pair.partition('=')[2]}")
    ]
    return ["--model", root / "model", *named]


BOTH = ("eng_Latn=eng_Latn.jsonl", "VIE-Latn=vie_Latn.jsonl")


def test_what_is_read_and_left_out_is_recorded_and_shown(folder, tmp_path):
    options = ["--min-length", 10, "--sample-texts", 8, "--random-seed", 3, "--documents", 20]
    found = call("relevance", *given(folder, *BOTH), *options, "--out", tmp_path / "stats")
    assert found.exit_code == 0, found.output
    corpora = read_json(tmp_path / "stats" / "statistics.json")["corpora"]
    assert list(corpora) == ["eng_Latn", "vie-Latn"]
    vietnamese = corpora["vie-Latn"]
    assert (vietnamese["documents"], vietnamese["left_out"]["read"]) == (8, 20)
    table = [line.split() for line in found.output.splitlines()]
    assert ["vie-Latn", "(Vietnamese)", "8", str(vietnamese["tokens"])] in table
    assert "texts left out" not in found.output  # the first twenty are whole
    again = call("relevance", *given(folder, *BOTH), *options[:-2], "--out", tmp_path / "all")
    assert "texts left out: eng_Latn 1 empty, 1 copies; vie-Latn 1 copies, 1 short" in again.output
    assert read_json(tmp_path / "all" / "statistics.json")["corpora"]["vie-Latn"]["left_out"]["short"] == 1


def test_a_corpus_in_another_language_is_named_and_read(folder, tmp_path):
    arguments = given(folder, "eng_Latn=eng_Latn.jsonl", "vi=fr.jsonl")
    found = call("ablate", *arguments, "--documents", 2, "--sample", 2, "--out", tmp_path / "effects.csv")
    assert found.exit_code == 0
    assert "fr.jsonl: 2 of 2 texts look like French, not Vietnamese; is the key vi right?" in found.stderr
    assert (tmp_path / "effects.csv").is_file()


@pytest.mark.parametrize(
    ("pairs", "options", "words"),
    [
        (("zh_Hnas=fr.jsonl", "en=fr.jsonl"), [], "did you mean zh_Hans?"),
        (("vi=fr.jsonl", "vie_Latn=vie_Latn.jsonl"), [], "'vi' and 'vie_Latn' are the same"),
        (("en=fr.jsonl", "vi=none.jsonl"), [], "there is no file"),
        (BOTH, ["--min-length", 900], "0 are taken; 1 empty, 1 copies, 30 short; two or more are needed"),
        (BOTH, ["--documents", 20, "--held-out", 16], "--held-out 16: the smallest corpus has 20 texts"),
    ],
)
def test_mistakes_leave_nothing_behind(folder, tmp_path, complaint, pairs, options, words):
    assert words in complaint("bench", *given(folder, *pairs), *options, "--out", tmp_path / "bench")
    assert not (tmp_path / "bench").exists()


def test_a_share_beyond_one_is_refused(folder, tmp_path):
    found = call("evaluate", *given(folder, *BOTH), "--near-copies", 1.5, "--sets", "x", "--out", tmp_path / "x.csv")
    assert found.exit_code == 2
    assert "less than or equal to 1" in " ".join(found.output.split())


@pytest.mark.slow
def test_thirty_two_languages_are_measured_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("crane_study.figures.matched_damage.collateral_curves", Mock())  # takes longer than the rest
    monkeypatch.setattr(many_languages, "_STEPS", 10)
    monkeypatch.setattr("crane_study.own.judge.SHARES", (0.01, 0.3))
    monkeypatch.setattr("crane_study.own.measure.SHARES", (0.01, 0.3))
    many_languages.main(tmp_path / "many", languages=32, documents=8, names=3, methods="contrast")
    said, codes = capsys.readouterr().out, many_languages.CODES
    lines = said.splitlines()
    for code in codes:  # in the table of sizes, and in that of effects
        assert sum(code in line.split() for line in lines) >= 2, code
    assert "in each of 32 languages" in said
    assert max(len(line.replace(str(tmp_path), "")) for line in lines) < 120
    assert len(read_neuron_sets(tmp_path / "many" / "sets.json")) == 32
    effects = pd.read_parquet(tmp_path / "many" / "effects.parquet")
    assert len(effects) == 33 * 32 * 4
    assert set(pd.read_csv(tmp_path / "many" / "bench" / "bench.csv")["masked_language"]) == set(codes)
    assert json.loads((tmp_path / "many" / "stats" / "statistics.json").read_text())["complete"]
