"""Bad input of every command without a profile: one line, exit code 2, nothing written."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_study.fingerprints import sealed
from crane_study.own import statistics_folder
from tests.run.program import call
from tests.small import QUESTIONS, TEXTS, write_lines, write_model, write_ungated

CORPORA = "--corpus en={root}/en.jsonl --corpus vi={root}/vi.jsonl"
MODEL = "--model {root}/model"
SETS = "--sets {root}/sets.json"
OUT = "--out {out}/x.csv"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model, one of another family, texts, statistics, sets, scores, and damaged and foreign files."""
    folder = tmp_path_factory.mktemp("bad")
    write_model(folder / "model")
    write_ungated(shutil.copytree(folder / "model", folder / "other"))
    for language, texts in TEXTS.items():
        write_lines(folder / f"{language}.jsonl", [{"text": text} for text in texts[:8]])
    write_lines(folder / "q.jsonl", QUESTIONS["en"])
    write_lines(folder / "empty.jsonl", [])
    (folder / "damaged.jsonl").write_text('{"text": "cut', encoding="utf-8")
    found = call("relevance", *f"{MODEL} {CORPORA} --out {{root}}/stats".format(root=folder).split())
    assert found.exit_code == 0, found.output
    arguments = f"--statistics {folder}/stats --budget 0.1 --out {folder}/sets.json --scores {folder}/scores.parquet"
    assert call("select", *arguments.split()).exit_code == 0
    whole = (folder / "sets.json").read_text(encoding="utf-8")
    (folder / "cut.json").write_text(whole[: len(whole) // 2], encoding="utf-8")
    (folder / "malformed.json").write_text(whole.replace('"widths"', '"width"'), encoding="utf-8")
    (folder / "text.parquet").write_text("text", encoding="utf-8")
    (folder / "list.neuron.pth").write_text("text", encoding="utf-8")
    pd.DataFrame({"method": ["none"]}).to_csv(folder / "results.csv", index=False)
    rows = NeuronSet({"gate": [np.array([1]), np.array([2])]}, {"gate": 24}, method="m", budget="1", language="vi")
    write_neuron_sets(folder / "rows.json", [rows])
    shutil.copytree(folder / "stats", folder / "halfway")
    about = json.loads((folder / "stats" / "statistics.json").read_text(encoding="utf-8"))
    (folder / "halfway" / "statistics.json").write_text(
        json.dumps(sealed(about | {"complete": False})), encoding="utf-8"
    )
    shutil.copytree(folder / "stats", folder / "lacking")
    (folder / "lacking" / "gold_logit.vi.safetensors").unlink()
    return folder


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"relevance {MODEL} {CORPORA}", "give --out"),
        (f"relevance --model {{root}}/nowhere {CORPORA} --out {{out}}/s", "no such directory"),
        (f"relevance {MODEL} {CORPORA} --out {{root}}/en.jsonl/s", "cannot be written"),
        (f"relevance {MODEL} {CORPORA} --out {{root}}", "is not empty and has no statistics"),
        (f"relevance {MODEL} {CORPORA} --objective gold --out {{out}}/s", "expected one of gold_logit"),
        (f"relevance {MODEL} {CORPORA} --dtype int8 --out {{out}}/s", "int8"),
        (f"relevance {MODEL} {CORPORA} --device tpu --out {{out}}/s", "tpu"),
        (
            f"relevance {MODEL} --corpus en={{root}}/damaged.jsonl --corpus vi={{root}}/vi.jsonl --out {{out}}/s",
            "line 1",
        ),
        (
            f"relevance {MODEL} --corpus en={{root}}/empty.jsonl --corpus vi={{root}}/vi.jsonl --out {{out}}/s",
            "no text",
        ),
        ("select --out {out}/x.json", "give --statistics, or --scores-from"),
        ("select --statistics {root}/halfway --out {out}/x.json", "are not complete"),
        ("select --statistics {root}/lacking --out {out}/x.json", "is missing, or was changed"),
        ("select --statistics {root}/stats --method contras --out {out}/x.json", "did you mean contrast?"),
        ("select --statistics {root}/stats --out {root}/en.jsonl/x.json", "cannot be written"),
        ("select --statistics {root}/stats --out {root}/stats", "is a folder"),
        ("select --statistics {root}/stats --out {out}/x.json --scores {out}/x.csv", "scores are written as .parquet"),
        ("select --statistics {root}/stats --budget 1.5 --out {out}/x.json", "between 0 and 1"),
        ("select --scores-from {root}/nowhere.parquet --out {out}/x.json", "no such file"),
        ("select --scores-from {root}/text.parquet --out {out}/x.json", "cannot be read as a table"),
        ("select --scores-from {root}/results.csv --out {out}/x.json", "has no scores of all units"),
        ("select --scores-from {root}/scores.parquet --method lape --out {out}/x.json", "leave --method"),
        (f"evaluate {MODEL} {SETS} {OUT}", "give what to measure"),
        (f"evaluate {MODEL} {CORPORA} --sets {{root}}/nowhere.json {OUT}", "no such file"),
        (f"evaluate {MODEL} {CORPORA} --sets {{root}}/cut.json {OUT}", "is not JSON"),
        (f"evaluate {MODEL} {CORPORA} --sets {{root}}/malformed.json {OUT}", "set 0 is malformed"),
        (f"evaluate {MODEL} {CORPORA} --sets {{root}}/results.csv {OUT}", "is not JSON"),
        (f"evaluate {MODEL} {CORPORA} --sets {{root}}/scores.parquet {OUT}", "is not JSON"),
        (f"evaluate {MODEL} {CORPORA} --sets {{root}}/stats/statistics.json {OUT}", "is not a file of neuron sets"),
        (f"evaluate {MODEL} {CORPORA} --sets {{root}}/stats {OUT}", "no such file"),
        (
            f"evaluate {MODEL} {CORPORA} --sets {{root}}/list.neuron.pth --languages en,vi {OUT}",
            "is not a file of tensors",
        ),
        (f"evaluate --model {{root}}/other {CORPORA} {SETS} {OUT}", "whose weights (or --dtype) differ"),
        (f"evaluate --model {{root}}/other {CORPORA} --sets {{root}}/rows.json {OUT}", "the model's layers have none"),
        (f"evaluate {MODEL} {CORPORA} {SETS} --out {{out}}/x.xlsx", "ends in .parquet or .csv"),
        (f"evaluate {MODEL} {CORPORA} {SETS} --out {{root}}/en.jsonl/x.csv", "cannot be written"),
        (f"evaluate {MODEL} {SETS} --corpus en={{root}}/en.jsonl {OUT}", "two languages or more"),
        (f"evaluate {MODEL} {CORPORA} {SETS} --skip 7 {OUT}", "1 are taken (after the first 7)"),
        (f"evaluate {MODEL} {SETS} --questions en {OUT}", "--questions 'en': expected language=file"),
        (f"evaluate {MODEL} {SETS} --questions en={{root}}/en.jsonl {OUT}", "has no field 'question'"),
        (f"evaluate {MODEL} {SETS} --tasks a --include-path {{root}}/nowhere {OUT}", "there is no such folder"),
        (f"bench {MODEL} {CORPORA} --method contrst --out {{out}}/b", "did you mean contrast?"),
        (f"bench {MODEL} {CORPORA} --held-out 7 --out {{out}}/b", "twice as many are needed"),
        (f"bench {MODEL} {CORPORA} --held-out 2 --out {{root}}/en.jsonl/b", "cannot be written"),
        (f"ablate {MODEL} {CORPORA} --sets {{root}}/cut.json {OUT}", "is not JSON"),
        (f"ablate {MODEL} {CORPORA} --sample 3 --out {{out}}/x", "ends in .parquet or .csv"),
        (f"ablate --model {{root}}/other {CORPORA} {SETS} {OUT}", "whose weights (or --dtype) differ"),
        ("mask {root}/model {root}/sets.json {out}/m --language de", "has no set for --language de"),
        ("mask {root}/model {root}/sets.json {out}/m --language vi --as lora", "expected one of checkpoint, ia3"),
        ("mask {root}/model {root}/sets.json {root}/en.jsonl/m --language vi", "cannot be written"),
        ("mask {root}/other {root}/sets.json {out}/m --language vi", "whose weights (or --dtype) differ"),
        ("mask {root}/model {root}/sets.json {root}/stats --language vi --as ia3", "is not empty"),
        ("compare {root}/sets.json {root}/cut.json", "is not JSON"),
        ("report {root}", "has no manifest.json"),
    ],
)
def test_bad_input_is_told_in_one_line_and_nothing_is_written(root, tmp_path, complaint, command, words):
    before = sorted(root.rglob("*"))
    said = complaint(*command.format(root=root, out=tmp_path / "new").split())
    assert words in said
    assert not (tmp_path / "new").exists()
    assert sorted(root.rglob("*")) == before


def test_sets_of_the_same_weights_with_another_tokenizer_are_refused(root, tmp_path, complaint, monkeypatch):
    monkeypatch.setattr(statistics_folder, "tokenizer_hash", lambda tokenizer: "0" * 64)
    command = f"evaluate {MODEL} {CORPORA} {SETS} {OUT}".format(root=root, out=tmp_path)
    assert "was selected with another tokenizer than this model's" in complaint(*command.split())
    assert list(tmp_path.iterdir()) == []
