"""The command that steers a model: its answers are the model's own in the block, and mistakes are one line."""

import json

import pytest
from safetensors.torch import load_file

from crane_lib.neurons import read_neuron_sets
from crane_lib.steering import steered
from crane_study.loading.models import load_model
from crane_study.measure.generation import greedy_answers
from tests.run.program import call
from tests.small import TEXTS, write_model_and_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, texts in two languages, sets and prompts."""
    root = tmp_path_factory.mktemp("steer")
    write_model_and_texts(root)
    corpora = [part for k in TEXTS for part in ("--corpus", f"{k}={root / k}.jsonl")]
    for arguments in (
        ("relevance", "--model", root / "model", *corpora, "--out", root / "stats", "--documents", 10),
        ("select", "--statistics", root / "stats", "--budget", 0.2, "--out", root / "sets.json"),
    ):
        found = call(*arguments)
        assert found.exit_code == 0, found.output
    (root / "prompts.txt").write_text("The river\n\nIn town\n", encoding="utf-8")
    return root


def steering(folder, *arguments):
    return call("steer", "--model", folder / "model", "--language", "vi", "--max-new-tokens", 6, *arguments)


def texts(folder, *languages):
    return [part for k in languages for part in ("--corpus", f"{k}={folder / k}.jsonl")]


def test_answers_are_those_of_the_steered_model(folder, tmp_path):
    prompts = ["--prompts", folder / "prompts.txt", "--prompt", "bridge", "--strength", 3, "--strength", 30]
    found = steering(folder, "--sets", folder / "sets.json", *prompts, "--out", tmp_path / "a.jsonl", "--json")
    assert found.exit_code == 0, found.output
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert json.loads(found.output)["answers"] == rows
    assert [(row["strength"], row["prompt"]) for row in rows] == [
        (s, p) for s in (None, 3.0, 30.0) for p in ("bridge", "The river", "In town")
    ]
    assert {row["by"] for row in rows} == {"gain"}
    model, tokenizer = load_model(folder / "model", device="cpu", dtype="auto")
    (own,) = [item for item in read_neuron_sets(folder / "sets.json") if item.language == "vi"]
    with steered(model, own, gain=30.0):
        expected = greedy_answers(model, tokenizer, [tokenizer("bridge")["input_ids"]], max_new_tokens=6)
    assert rows[6]["answer"] == expected[0].text
    assert rows[6]["answer"] != rows[0]["answer"]


def test_three_ways_to_steer_are_told_apart_and_shown(folder):
    for given, how in (
        (["--sets", folder / "sets.json"], "gain"),
        (["--sets", folder / "sets.json", *texts(folder, "vi")], "add"),
        (texts(folder, "en", "vi"), "difference of means"),
    ):
        found = steering(folder, *given, "--prompt", "The river", "--strength", 2, "--json")
        assert found.exit_code == 0, found.output
        assert {row["by"] for row in json.loads(found.output)["answers"]} == {how}
    found = steering(folder, *texts(folder, "en", "vi"), "--prompt", "The river")
    assert [line.split("  ")[1] for line in found.output.splitlines() if line.startswith("  ")] == [
        "not steered",
        "strength 1",
        "strength 2",
    ]


def test_vectors_are_written_in_three_formats(folder, tmp_path):
    for ending, given in (
        ("pt", ["--sets", folder / "sets.json", *texts(folder, "vi")]),
        ("gguf", ["--sets", folder / "sets.json", *texts(folder, "vi")]),
        ("safetensors", [*texts(folder, "en", "vi"), "--layer", 1]),
    ):
        found = steering(folder, *given, "--strength", 2, "--export", tmp_path / f"v.{ending}")
        assert found.exit_code == 0, found.output
        assert ("llama.cpp cannot steer" in found.output) == (ending == "gguf")
    assert {name: tuple(v.shape) for name, v in load_file(tmp_path / "v.safetensors").items()} == {"layers.1": (16,)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "a"], "give --sets FILE, or --corpus LANGUAGE=FILE for two languages"),
        (["SETS"], "give --prompt TEXT, --prompts FILE or --export FILE"),
        (["SETS", "--prompt", "a", "--strength", "nan"], "--strength nan: expected a finite number"),
        (["SETS", "--export", "v.pt", "--strength", "2"], "a factor is no vector; give --corpus of the language"),
        (["SETS", "VI", "--export", "v.pt"], "--export: is for one --strength, there are 2"),
        (["SETS", "VI", "--export", "v.bin", "--strength", "2"], "expected a name that ends in .pt"),
        (
            ["SETS", "--prompt", "a", "--language", "fr"],
            "has 0 sets of 'fr', one is expected; its languages are en, vi",
        ),
        (["VI", "EN", "--prompt", "a", "--language", "fr"], "'fr': no --corpus has its texts; there are vi, en"),
        (["VI", "EN", "--prompt", "a", "--layer", "2"], "--layer 2: the model has layers 0 to 1"),
        (["SETS", "--prompt", "a", "--chat"], "has no chat template"),
        (["SETS", "--prompts", "none.txt"], "none.txt: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    known = {"SETS": ["--sets", folder / "sets.json"], "VI": texts(folder, "vi"), "EN": texts(folder, "en")}
    given = [part for argument in arguments for part in known.get(argument, [argument])]
    found = steering(folder, *given)
    assert found.exit_code != 0
    assert words in str(found.exception)
    assert "\n" not in str(found.exception)
    assert not list(tmp_path.iterdir())
