"""Neuron sets go to the hub and come back; two of a kind are compared; a neuron is printed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from crane_lib.files import write_json
from crane_lib.neurons import NeuronSet, read_neuron_sets, write_neuron_sets
from crane_run.comparing import compare_results, compare_runs
from crane_run.inspect import lab
from crane_run.manifest import read_manifest
from crane_run.references import reference_of
from crane_study.own.hub_sets import public_name
from crane_study.own.sets import score_table
from tests.hub_stub import COMMIT, hub_stub
from tests.run.program import CRANE, call, process
from tests.run.small_run import make_run

CANARY = "hf_canaryCANARYcanary0123456789"
PRIVATE = "/home/somebody/models/llama"  # must not leave this machine


@pytest.fixture
def sets_folder(tmp_path):
    """A folder with sets, the scores of all units, an adapter, and other files."""
    folder = tmp_path / "results"
    folder.mkdir()
    scores = {k: np.random.default_rng(n).random((2, 24)) for n, k in enumerate(("en", "vi"))}
    corpora = {k: {"documents": 3, "sha256": "ab" * 32, "file": f"{PRIVATE}/{k}.jsonl"} for k in scores}
    notes = {"model": PRIVATE, "corpora": corpora, "objective": "gold_logit", "rule": "attnlrp", "mine": PRIVATE}
    about = {"method": "contrast", "budget": "0.1", "notes": notes, "revision": "d" * 40, "model": "f" * 16}
    sites = {k: {"neuron": [np.flatnonzero(layer > 0.8) for layer in own]} for k, own in scores.items()}
    sets = [NeuronSet(sites[k], {"neuron": 24}, language=k, **about) for k in scores]
    write_neuron_sets(folder / "contrast.json", sets)
    table = score_table(scores, sets)
    table.attrs = {"method": "contrast"}
    table.to_parquet(folder / "scores.parquet")
    (folder / "vi-mask").mkdir()
    config = {"peft_type": "IA3", "base_model_name_or_path": PRIVATE}
    write_json(folder / "vi-mask" / "adapter_config.json", config)
    (folder / "vi-mask" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "notes.txt").write_text(f"a secret, {CANARY}", encoding="utf-8")
    (folder / "vi-mask" / "secret.txt").write_text(CANARY, encoding="utf-8")
    return folder


PUSHED = ["README.md", "adapters/vi-mask/adapter_config.json", "adapters/vi-mask/adapter_model.safetensors"]
PUSHED += ["neurons.parquet", "sets/contrast.json"]


def test_what_would_be_pushed_is_written_with_a_card(sets_folder, tmp_path):
    found = call("push", sets_folder, "me/neurons", "--licence", "mit", "--dry-run", tmp_path / "pushed")
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[:-1] == PUSHED
    pushed = tmp_path / "pushed"
    table = pd.read_parquet(pushed / "neurons.parquet")
    assert list(table) == ["language", "method", "budget", "draw", "site", "layer", "index", "score"]
    before = read_neuron_sets(sets_folder / "contrast.json")
    units = {
        (k.language, layer, i) for k in before for layer, part in enumerate(k.sites["neuron"]) for i in part.tolist()
    }
    assert set(zip(table["language"], table["layer"], table["index"], strict=True)) == units
    assert len(table) == len(units)
    for row in table.to_dict("records"):
        own = np.random.default_rng(["en", "vi"].index(row["language"])).random((2, 24))
        assert row["score"] == own[row["layer"], row["index"]]
    for item, one in zip(read_neuron_sets(pushed / "sets" / "contrast.json"), before, strict=True):
        assert [layer.tolist() for layer in item.sites["neuron"]] == [layer.tolist() for layer in one.sites["neuron"]]
        assert (item.model, item.revision) == (one.model, one.revision)
    head = yaml.safe_load((pushed / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (head["license"], head["language"]) == ("mit", ["en", "vi"])
    assert set(head["tags"]) == {"interpretability", "neurons", "mlp-neurons", "language-specific-neurons"}
    card = (pushed / "README.md").read_text(encoding="utf-8")
    assert "| contrast | vi | contrast | 0.1 |" in card
    for words in ("llama", "d" * 40, "f" * 16, "ab" * 32, "attnlrp", "gold_logit", "crane pull me/neurons"):
        assert words in card
    everything = b"".join((pushed / name).read_bytes() for name in PUSHED)
    assert b"somebody" not in everything
    assert CANARY.encode() not in everything


def test_sets_are_pushed_and_pulled_and_the_token_stands_nowhere(sets_folder, tmp_path):
    with hub_stub("me/neurons") as hub:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": CANARY,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
        }
        hub.files["sets/old.json"] = b"{}"
        done = process(*CRANE, "push", sets_folder, "me/neurons", "--licence", "mit", "--private", **settings)
        assert done.returncode == 0, done.stderr
        assert COMMIT in done.stdout
        assert sorted(hub.files) == PUSHED  # nothing else of the folder, and no set of an earlier push
        (created,) = map(json.loads, hub.bodies("*/repos/create"))
        assert (created["type"], created["visibility"]) == ("dataset", "private")
        told = {name for *_rest, headers, _body in hub.requests for name, value in headers.items() if CANARY in value}
        assert {name.lower() for name in told} == {"authorization"}
        assert not any(CANARY.encode() in body or CANARY in path for _method, path, _headers, body in hub.requests)
        pulled = process(*CRANE, "pull", f"me/neurons@{COMMIT}", "--out", tmp_path / "pulled", **settings)
        assert pulled.returncode == 0, pulled.stderr
        hub.refuse = True
        refused = process(*CRANE, "push", sets_folder, "me/neurons", "--licence", "mit", **settings)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "HF_TOKEN has no right to do that" in refused.stderr
    assert pulled.stdout == f"{tmp_path / 'pulled' / 'sets' / 'contrast.json'}: en, vi\n"
    kept = sorted(str(path.relative_to(tmp_path / "pulled")) for path in (tmp_path / "pulled").rglob("*.*"))
    assert [name for name in kept if (tmp_path / "pulled" / name).is_file()] == PUSHED
    for one in (done, pulled, refused):
        assert CANARY not in one.stdout + one.stderr
    written = [path for root in ("pulled", "hf") for path in (tmp_path / root).rglob("*") if path.is_file()]
    assert not any(CANARY.encode() in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/x/hub/models--meta--Llama/snapshots/0a/", "meta/Llama"),
        ("meta/Llama", "meta/Llama"),
        ("/home/me/llama", "llama"),
        ("../../llama", "llama"),
        ("", ""),
    ],
)
def test_models_are_named_without_the_folders_of_this_machine(model, name):
    assert public_name(model) == name


def results(rises, *, method="contrast", items=4):
    """Results of two languages under one set, whose NLL rises by these nats per token."""
    rows = []
    for language, rise in rises.items():
        for item in range(items):
            place = {"task": "texts", "language": language, "metric": "nll", "item": item, "weight": 10}
            before = {"method": "none", "budget": "", "masked_language": "", "draw": -1, "value": 20.0 + item}
            under = {"method": method, "budget": "0.1", "masked_language": "en", "draw": -1}
            rows += [before | place, under | place | {"value": 20.0 + item + 10 * rise}]
    return pd.DataFrame(rows)


def test_results_are_joined_with_the_largest_difference_first(tmp_path):
    for name, rises, method in [("a", {"en": 1.0, "vi": 0.5}, "contrast"), ("b", {"en": 1.25, "vi": 1.5}, "lape")]:
        results(rises, method=method).to_parquet(tmp_path / f"{name}.parquet")
        results(rises).to_csv(tmp_path / f"{name}.csv", index=False)
    for ending, known in (("parquet", False), ("csv", True)):  # of different methods, and of one
        table = compare_results(tmp_path / f"a.{ending}", tmp_path / f"b.{ending}")
        assert table["language"].tolist() == ["vi", "en"]
        np.testing.assert_allclose(table["difference"], [1.0, 0.25])
        assert ("method" in table) == known
    found = call("compare", tmp_path / "a.parquet", tmp_path / "b.csv", "--out", tmp_path / "all.csv")
    assert found.exit_code == 0, found.output
    assert len(pd.read_csv(tmp_path / "all.csv")) == 2


def test_runs_are_joined_with_the_largest_difference_first(tmp_path):
    for name, given in (("a", {}), ("b", {"shift": 0.25, "verdict": "NOT_REPRODUCED"})):
        make_run(tmp_path / name, **given)
    references = [reference_of(tmp_path / name, read_manifest(tmp_path / name)) for name in ("a", "b")]
    table = compare_runs(*references)["differences"]
    assert table["size"].is_monotonic_decreasing
    row = table[(table["table"] == "tables/03_langspec.csv") & (table["row"].str.startswith("contrast"))]
    row = row[row["column"] == "mean"].iloc[0]
    assert (row["first"], row["second"], row["difference"]) == (0.7, 0.95, pytest.approx(0.25))
    assert row["size"] == pytest.approx(0.25 / 0.95)
    counts = table[table["table"] == "tables/00_documents.csv"]
    assert (counts["difference"] == 0).all()
    found = call("compare", tmp_path / "a", tmp_path / "b")
    assert found.exit_code == 0, found.output
    assert "verdict C3 / contrast / 0.1 / accuracy: REPRODUCED, NOT_REPRODUCED" in found.output
    same = json.loads(call("compare", tmp_path / "a", tmp_path / "a", "--json").output)
    assert not any(row["difference"] for row in same["differences"])
    assert same["verdicts"] == []


def test_the_notebook_of_a_run_is_opened(tmp_path, monkeypatch):
    called = SimpleNamespace()
    monkeypatch.setattr(lab, "open_lab", lambda profile, root, **given: vars(called).update(given, all=(profile, root)))
    make_run(tmp_path / "mini-seed1")
    call("inspect", tmp_path / "mini-seed1")
    assert called.all == ("mini-seed1", tmp_path)
    assert called.run_folder == Path(tmp_path / "mini-seed1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["push", "{sets}", "me", "--licence", "mit"], "expected USER/NAME"),
        (["push", "{sets}", "me/x", "--licence", "a: b"], "expected an identifier of the hub"),
        (["push", "{sets}", "me/x", "--licence", "mit"], "set HF_TOKEN to a token of the hub"),
        (["push", "{root}/no.json", "me/x", "--licence", "mit"], "no such file or folder"),
        (["push", "{root}/mixed", "me/x", "--licence", "mit", "--dry-run", "{root}/out"], "of several models"),
        (["push", "{root}/empty", "me/x", "--licence", "mit", "--dry-run", "{root}/out"], "has no files of neuron"),
        (["push", "{sets}", "me/x", "--licence", "mit", "--dry-run", "{root}/empty/.."], "is not empty"),
        (["pull", "me/x", "--out", "{root}/mixed"], "is not empty"),
        (["pull", "me/x/y", "--out", "{root}/new"], "expected USER/NAME"),
        (["compare", "{sets}", "{root}/empty"], "give two files of neuron sets, two results"),
        (["compare", "{sets}", "{root}/no.json"], "no such file or folder"),
        (["compare", "{sets}", "{root}/text.json"], "is not JSON"),
        (["compare", "{root}/empty", "{root}/empty"], "has no manifest.json"),
        (["compare", "{root}/text.csv", "{root}/text.csv"], "is not a result of crane evaluate"),
        (["compare", "{root}/text.parquet", "{root}/text.csv"], "cannot be read as a table"),
        (["compare", "{sets}", "{sets}", "--out", "{root}/text.csv/x.csv"], "cannot be written"),
        (["inspect", "{root}/empty"], "nothing has been run there"),
        (["inspect", "{root}/run", "--neuron", "3"], "expected LAYER:INDEX"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, sets_folder, complaint, monkeypatch, arguments, words):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name in ("empty", "mixed", "run/stages"):
        (tmp_path / name).mkdir(parents=True)
    (own, other) = read_neuron_sets(sets_folder / "contrast.json")
    write_neuron_sets(tmp_path / "mixed" / "a.json", [own, replace(other, model="0" * 16)])
    for ending in ("json", "csv", "parquet"):
        (tmp_path / f"text.{ending}").write_text("text", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    places = {"root": tmp_path, "sets": sets_folder / "contrast.json"}
    assert words in complaint(*[argument.format(**places) for argument in arguments])
    assert sorted(tmp_path.rglob("*")) == before
