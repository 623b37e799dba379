"""Commands for a model and texts of one's own: from statistics to sets, effects and the comparison of methods."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import crane_lib
from crane_lib.interventions import masked
from crane_lib.methods import METHODS
from crane_lib.neurons import NeuronSet, read_neuron_sets, write_neuron_sets
from crane_lib.nll import document_nll
from crane_study.data.corpora import token_ids
from crane_study.loading.models import load_model
from crane_study.own import named_methods
from crane_study.own.harness_tasks import tasks_measure
from crane_study.own.statistics_folder import read_units, revision_of
from crane_study.profile import profile_names
from tests.lib.test_batches import memory_for
from tests.run.program import SEVERAL, call, process
from tests.run.small_run import make_run
from tests.small import QUESTIONS, TEXTS, write_lines, write_model_and_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, texts in two languages, their statistics over the first 20 texts, and a method."""
    root = tmp_path_factory.mktemp("own")
    write_model_and_texts(root)
    (root / "mine.py").write_text("def mine_by_output(units):\n    return units.output\n", encoding="utf-8")
    found = call("relevance", "--model", root / "model", *corpora(root), "--out", root / "stats", "--documents", 20)
    assert found.exit_code == 0, found.output
    yield root
    METHODS.pop("mine_by_output", None)
    named_methods._LOADED.clear()


def corpora(root):
    return [part for language in TEXTS for part in ("--corpus", f"{language}={root / language}.jsonl")]


def test_a_set_is_selected_from_the_statistics_with_all_scores(folder, tmp_path):
    sets, scores = tmp_path / "sets.json", tmp_path / "scores.parquet"
    arguments = ["--statistics", folder / "stats", "--method", "contrast", "--budget", 0.1, "--out", sets]
    found = call("select", *arguments, "--scores", scores, "--json")
    assert json.loads(found.output)["languages"][1] == {"language": "vi", "units": 5, "killed_neurons": 5}
    expected = METHODS["contrast"].select(read_units(folder / "stats"), budget=0.1)
    for item in read_neuron_sets(sets):
        for one, other in zip(item.sites["neuron"], expected[item.language]["neuron"], strict=True):
            np.testing.assert_array_equal(one, other)
        assert item.notes["corpora"]["en"]["documents"] == 20
    frame = pd.read_parquet(scores)
    assert len(frame) == 2 * 2 * 24
    assert frame.groupby("language")["selected"].sum().to_dict() == {"en": 5, "vi": 5}
    lowest = frame[frame["selected"]].groupby("language")["score"].min()
    assert (lowest >= frame[~frame["selected"]].groupby("language")["score"].max()).all()


def test_a_method_of_ones_own_is_a_function_in_a_file(folder, tmp_path):
    arguments = ["--statistics", folder / "stats", "--budget", 0.1, "--out", tmp_path / "mine.json"]
    found = call("select", *arguments, "--method", f"{folder / 'mine.py'}:mine_by_output")
    assert found.exit_code == 0, found.output
    output = read_units(folder / "stats").output["vi"]
    (chosen,) = [item for item in read_neuron_sets(tmp_path / "mine.json") if item.language == "vi"]
    lowest = min(output[layer, index] for layer, part in enumerate(chosen.sites["neuron"]) for index in part)
    assert (output > lowest).sum() == 4


def test_effects_are_those_of_the_masked_model(folder, tmp_path):
    sets = tmp_path / "sets.json"
    call("select", "--statistics", folder / "stats", "--budget", 0.2, "--out", sets)
    arguments = ["--model", folder / "model", "--sets", sets, *corpora(folder), "--skip", 20]
    found = call("evaluate", *arguments, "--out", tmp_path / "results.parquet", "--json")
    effects = pd.DataFrame(json.loads(found.output)["effects"])
    model, tokenizer = load_model(folder / "model", device="cpu", dtype="auto")
    tokens = token_ids(TEXTS["vi"][20:], tokenizer, max_length=2048)
    (own,) = [item for item in read_neuron_sets(sets) if item.language == "vi"]
    before, count = document_nll(model, tokens, token_budget=512)
    with masked(model, own):
        after, _count = document_nll(model, tokens, token_budget=512)
    row = effects[(effects["masked_language"] == "vi") & (effects["language"] == "vi")].iloc[0]
    assert row["rise"] == pytest.approx((after - before).sum() / count.sum(), rel=1e-4)
    assert row["low"] < row["rise"] < row["high"]
    frame = pd.read_parquet(tmp_path / "results.parquet")
    assert set(frame["method"]) == {"none", "contrast"}
    assert len(frame) == 3 * 2 * 10


def test_methods_are_compared_at_matched_damage_and_a_second_start_measures_nothing(folder, tmp_path, monkeypatch):
    arguments = ["bench", "--model", folder / "model", *corpora(folder), "--held-out", 6, "--out", tmp_path / "bench"]
    arguments += ["--method", "contrast", "--method", f"{folder / 'mine.py'}:mine_by_output"]
    found = call(*arguments)
    assert found.exit_code == 0, found.output
    table = pd.read_csv(tmp_path / "bench" / "bench.csv")
    assert set(table["method"]) == {"contrast", "mine_by_output", "random_global"}
    assert len(table) == 3 * 2 * 3
    assert (tmp_path / "bench" / "bench.png").stat().st_size > 10_000
    monkeypatch.setattr("crane_study.own.judge.masked", None)  # every mask is kept
    again = call(*arguments, "--json")
    assert again.exit_code == 0, again.output
    assert len(json.loads(again.output)["summary"]) == 9
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "bench" / "bench.csv"), table)


def test_attention_heads_are_selected_evaluated_and_compared(folder, tmp_path, complaint):
    sets, scores = tmp_path / "heads.json", tmp_path / "scores.parquet"
    arguments = ["--statistics", folder / "stats", "--unit", "head", "--budget", 0.25, "--scores", scores]
    found = call("select", *arguments, "--out", sets)
    assert "25.00% of the heads: en 1, vi 1" in found.output
    model, _tokenizer = load_model(folder / "model", device="cpu", dtype="auto")
    frame = pd.read_parquet(scores)
    best = frame.loc[frame.groupby("language")["score"].idxmax()].set_index("language")
    assert (len(frame), set(frame["site"])) == (8, {"head"})
    for item in read_neuron_sets(sets):
        row = best.loc[item.language]
        assert [layer.tolist() for layer in item.sites["head"]] == [
            [row["index"]] if number == row["layer"] else [] for number in (0, 1)
        ]
        assert (item.killed(), item.share()) == (0, 0.25)
        item.check(model)
    given = ["--model", folder / "model", "--sets", sets, *corpora(folder), "--skip", 20, "--out", tmp_path / "r.csv"]
    effects = pd.DataFrame(json.loads(call("evaluate", *given, "--json").output)["effects"])
    assert (effects["rise"].abs() > 1e-4).all()
    both = json.loads(call("compare", sets, sets, "--json").output)["overlaps"]
    assert [one["shared"] for one in both if one["first"] == one["second"]] == [1, 1]
    bench = [
        "bench",
        "--model",
        folder / "model",
        *corpora(folder),
        "--held-out",
        4,
        "--documents",
        12,
        "--unit",
        "head",
    ]
    found = call(*bench, "--method", "contrast", "--out", tmp_path / "bench", "--json")
    assert {row["method"] for row in json.loads(found.output)["summary"]} == {"contrast", "random_global"}
    assert "kurtosis: reads what" in complaint(*bench, "--method", "kurtosis", "--out", tmp_path / "other")


def test_sets_go_out_and_come_back_as_a_list_of_lape(folder, tmp_path):
    sets, listed = tmp_path / "sets.json", tmp_path / "sets.neuron.pth"
    call("select", "--statistics", folder / "stats", "--budget", 0.2, "--out", sets, "--lape", listed)
    effects = []
    for given in ([sets], [listed, "--languages", "en,vi"]):
        arguments = ["--model", folder / "model", *corpora(folder), "--skip", 20, "--out", tmp_path / "r.csv"]
        found = call("evaluate", "--sets", *given, *arguments, "--json")
        assert found.exit_code == 0, found.output
        effects.append(pd.DataFrame(json.loads(found.output)["effects"])["rise"])
    np.testing.assert_array_equal(*effects)


def test_overlaps_stand_beside_chance(folder, tmp_path):
    for name in ("contrast", "magnitude_contrast"):
        call(
            "select",
            "--statistics",
            folder / "stats",
            "--method",
            name,
            "--budget",
            0.1,
            "--out",
            tmp_path / f"{name}.json",
        )
    found = call("compare", tmp_path / "contrast.json", tmp_path / "magnitude_contrast.json", "--json")
    rows = pd.DataFrame(json.loads(found.output)["overlaps"])
    assert len(rows) == 4
    same = call("compare", tmp_path / "contrast.json", tmp_path / "contrast.json", "--json")
    shares = pd.DataFrame(json.loads(same.output)["overlaps"]).set_index(["first", "second"])["share_of_a"]
    assert shares["contrast 0.1 en", "contrast 0.1 en"] == 1
    assert shares["contrast 0.1 en", "contrast 0.1 vi"] == 0


def test_single_neurons_are_ablated_as_a_mask_of_one(folder, tmp_path):
    arguments = ["--model", folder / "model", *corpora(folder), "--documents", 4, "--sample", 5, "--dtype", "float64"]
    found = call("ablate", *arguments, "--out", tmp_path / "effects.csv")
    assert found.exit_code == 0, found.output
    frame = pd.read_csv(tmp_path / "effects.csv")
    assert frame.groupby("language").size().to_dict() == {"en": 5, "vi": 5}
    model, tokenizer = load_model(folder / "model", device="cpu", dtype="float64")
    tokens = token_ids(TEXTS["vi"][:4], tokenizer, max_length=64)
    before, count = document_nll(model, tokens, token_budget=512)
    for row in frame[frame["language"] == "vi"].itertuples():
        sites = {"neuron": [np.empty(0, dtype=np.int64) for _layer in range(2)]}
        sites["neuron"][row.layer] = np.array([frame.loc[row.Index, "index"]])
        with masked(model, NeuronSet(sites, {"neuron": 24})):
            after, _count = document_nll(model, tokens, token_budget=512)
        assert row.effect == pytest.approx((after - before).sum() / count.sum(), abs=1e-9)
        assert row.low <= row.effect <= row.high


def test_the_neurons_of_a_set_are_ablated(folder, tmp_path, complaint):
    sets = tmp_path / "sets.json"
    call("select", "--statistics", folder / "stats", "--budget", 0.05, "--out", sets)
    arguments = ["--model", folder / "model", *corpora(folder), "--documents", 2, "--sets", sets]
    assert call("ablate", *arguments, "--out", tmp_path / "effects.csv").exit_code == 0
    frame = pd.read_csv(tmp_path / "effects.csv")
    wanted = {(n, i) for item in read_neuron_sets(sets) for n, part in enumerate(item.sites["neuron"]) for i in part}
    assert set(zip(frame["layer"], frame["index"], strict=True)) == wanted
    assert "give one of them" in complaint("ablate", *arguments, "--sample", 3, "--out", tmp_path / "x.csv")


def test_the_report_of_a_run_is_shown(tmp_path, complaint):
    page = tmp_path / "mini" / "report.html"
    make_run(page.parent, also=lambda _folder: page.write_text("a page", encoding="utf-8"))
    assert call("report", page.parent).output.strip() == str(page.resolve())
    assert page.read_text(encoding="utf-8") == "a page"
    assert "manifest.json" in complaint("report", tmp_path)


def test_the_doctor_names_what_is_here_but_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    said = call("doctor", "--json").output
    found = json.loads(said)
    assert found["python"] == f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"
    assert {"torch", "transformers", "locks", "processor", "memory", "disk", "gpu", "cuda"} <= set(found)
    assert found["crane"].startswith(crane_lib.__version__)
    assert found["token"] == "HF_TOKEN is set"
    assert "canary" not in said
    every = {*found["profiles"].partition(" (")[0].split(", "), *found["not here"].split(", ")} - {"none"}
    assert every == set(profile_names())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--method": "contrst"}, "did you mean contrast?"),
        ({"--method": "nowhere.py:mine"}, "nowhere.py: no such file"),
        ({"--method": "gates"}, "needs gates of single documents"),
        (
            {"--method": "lape", "--unit": "head"},
            "lape: reads what attention heads do not have; methods for heads: contrast,",
        ),
        ({"--statistics": "empty"}, "has no statistics"),
        ({"--budget": "2"}, "expected a share between 0 and 1"),
    ],
)
def test_mistakes_in_selecting(folder, tmp_path, complaint, change, words):
    given = {
        "--statistics": folder / "stats",
        "--method": "contrast",
        "--budget": 0.1,
        "--out": tmp_path / "x.json",
    } | change
    assert words in complaint("select", *[part for pair in given.items() for part in pair])
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        (["en"], "expected language=file"),
        (["en=missing.jsonl"], "there is no file missing.jsonl"),
        (["en={root}/en.jsonl"], "two languages or more"),
        (["en={root}/en.jsonl", "en={root}/vi.jsonl"], "en was given before"),
    ],
)
def test_mistakes_in_naming_texts(folder, tmp_path, complaint, corpus, words):
    named = [part for pair in corpus for part in ("--corpus", pair.format(root=folder))]
    assert words in complaint("relevance", "--model", folder / "model", *named, "--out", tmp_path / "stats")
    assert not (tmp_path / "stats").exists()


def test_statistics_of_other_texts_are_not_mixed(folder, complaint):
    arguments = ["relevance", "--model", folder / "model", *corpora(folder), "--out", folder / "stats"]
    assert "has statistics with another corpora" in complaint(*arguments, "--documents", 10)
    assert "has these statistics already" in call(*arguments, "--documents", 20).output


def test_two_processes_share_the_passes_and_end_together(folder, tmp_path):
    arguments = [
        "relevance",
        "--model",
        folder / "model",
        *corpora(folder),
        "--documents",
        20,
        "--out",
        tmp_path / "two",
    ]
    done = process(*SEVERAL, *map(str, arguments))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("statistics of 40 documents") == 1
    one, two = (read_units(path) for path in (folder / "stats", tmp_path / "two"))
    np.testing.assert_allclose(two.neuron["vi"], one.neuron["vi"], rtol=1e-4, atol=1e-9)
    again = process(*SEVERAL, *map(str, arguments))
    assert (again.returncode, again.stdout.count("has these statistics already")) == (0, 1)


@pytest.fixture(scope="module")
def selected(folder):
    """Sets of a tenth of the neurons, and the scores of all."""
    arguments = ["--statistics", folder / "stats", "--budget", 0.1, "--out", folder / "selected.json"]
    assert call("select", *arguments, "--scores", folder / "selected.parquet").exit_code == 0
    return folder / "selected.json"


def test_sets_say_what_they_were_selected_on(folder, selected):
    info = json.loads((folder / "stats" / "statistics.json").read_text())
    for item in read_neuron_sets(selected):
        assert (item.model, item.tokenizer, item.revision) == (info["weights"], info["tokenizer"], "")
        assert item.library == crane_lib.__version__
        assert item.corpus == read_units(folder / "stats").corpus != ""
        assert item.notes["model"] == str(folder / "model")


def test_a_model_in_the_cache_of_the_hub_has_its_commit():
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path=f"/x/models--a--b/snapshots/{'0a' * 20}"))
    assert revision_of(model) == "0a" * 20
    model.config._name_or_path = "/x/snapshots/mine"
    assert revision_of(model) == ""


@pytest.mark.parametrize("command", ["evaluate", "ablate", "mask"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model": "0" * 16},
            "whose weights (or --dtype) differ from this model's; --other-model uses it nevertheless",
        ),
        ({"tokenizer": "0" * 64}, "was selected with another tokenizer than this model's"),
        (
            {"model": "", "revision": "a" * 40},
            f"was selected on commit {'a' * 40} of the model, this one is {'b' * 40}",
        ),
    ],
)
def test_sets_of_another_model_are_refused_or_used_as_asked(
    folder, selected, tmp_path, main, monkeypatch, command, change, words
):
    monkeypatch.setattr("crane_study.own.statistics_folder.revision_of", lambda model: "b" * 40)
    sets, out = tmp_path / "sets.json", tmp_path / "out.csv"
    write_neuron_sets(sets, [replace(item, **change) for item in read_neuron_sets(selected)])
    arguments = ["--model", folder / "model", "--sets", sets, *corpora(folder), "--documents", 2, "--out", out]
    arguments = [folder / "model", sets, out, "--language", "vi"] if command == "mask" else arguments
    code, _said, told = main(command, *arguments)
    assert (code, told.count("\n")) == (2, 1)
    assert words in told
    assert not out.exists()
    code, _said, told = main(command, *arguments, "--other-model")
    assert code == 0
    assert told.startswith(f"note: {sets}: was selected ")
    assert words.partition(";")[0] in told
    assert told.count("\n") == 1
    assert out.exists()


def test_sets_of_another_shape_do_not_fit_however_asked(folder, tmp_path, complaint):
    wide = NeuronSet({"neuron": [[30], []]}, {"neuron": 64}, method="m", budget="1", language="vi")
    write_neuron_sets(tmp_path / "wide.json", [wide])
    arguments = ["--model", folder / "model", "--sets", tmp_path / "wide.json", *corpora(folder), "--other-model"]
    for command in ("evaluate", "ablate"):
        said = complaint(command, *arguments, "--out", tmp_path / "out.csv")
        assert "neuron of layer 0, index 30 is out of range for a width of 24" in said


@pytest.mark.parametrize("how", [("--method", "contrast"), ("--method", "kurtosis"), ("--unit", "head")])
def test_scores_choose_again_without_statistics(folder, tmp_path, how):
    arguments = ["--statistics", folder / "stats", *how]
    call("select", *arguments, "--budget", 0.1, "--out", tmp_path / "a.json", "--scores", tmp_path / "a.parquet")
    call("select", *arguments, "--budget", 0.3, "--out", tmp_path / "b.json")
    again = call("select", "--scores-from", tmp_path / "a.parquet", "--budget", 0.3, "--out", tmp_path / "c.json")
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads((tmp_path / "b.json").read_text())


def test_scores_that_lack_units_are_refused(selected, tmp_path, complaint):
    pd.read_parquet(selected.with_suffix(".parquet")).iloc[1:].to_parquet(tmp_path / "cut.parquet")
    said = complaint("select", "--scores-from", tmp_path / "cut.parquet", "--out", tmp_path / "x.json")
    assert "en lacks units at neuron" in said


def test_questions_and_tasks_are_measured_under_masks(folder, selected, tmp_path):
    for language, asked in QUESTIONS.items():
        write_lines(folder / f"q.{language}.jsonl", asked)
    task = {
        "task": "mills",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "q.en.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}, {"metric": "mcc"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mills.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    arguments = ["--model", folder / "model", "--sets", selected, "--out", tmp_path / "results.parquet"]
    arguments += [part for k in QUESTIONS for part in ("--questions", f"{k}={folder / f'q.{k}.jsonl'}")]
    found = call("evaluate", *arguments, "--tasks", "mills", "--include-path", tmp_path / "tasks", "--json")
    assert found.exit_code == 0, found.output
    frame = pd.read_parquet(tmp_path / "results.parquet")
    counts = frame.groupby(["task", "language", "metric"]).size().to_dict()
    each = {("questions", language, metric): 24 for language in ("en", "vi") for metric in ("accuracy", "margin")}
    assert counts == each | {("mills", "", "acc"): 24, ("mills", "", "mcc"): 3}
    # The same questions by the harness's own evaluator, which splits prompt and answer as ours does here.
    places = frame.set_index(["method", "masked_language", "task", "language", "metric", "item"])["value"].sort_index()
    model, tokenizer = load_model(folder / "model", device="cpu", dtype="auto")
    measure = tasks_measure(model, tokenizer, ["mills"], folder=tmp_path / "tasks", batch_size=1)
    (own,) = [item for item in read_neuron_sets(selected) if item.language == "vi"]
    with masked(model, own):
        expected = measure()
        many = tasks_measure(model, tokenizer, ["mills"], folder=tmp_path / "tasks", batch_size=16)
        error, warned = torch.OutOfMemoryError("CUDA out of memory"), pytest.warns(UserWarning, match="memory ran out")
        with memory_for(model, 100, error) as sizes, warned:
            fewer = many()
        assert max(sizes) > 100 >= sizes[-1]
        pd.testing.assert_frame_equal(fewer, expected)
    expected = expected[expected["metric"] == "acc"].set_index("item")["value"]
    pd.testing.assert_series_equal(places["contrast", "vi", "mills", "", "acc"], expected)
    assert places["contrast", "vi", "questions", "en", "accuracy"].tolist() == expected.tolist()
    effects = pd.DataFrame(json.loads(found.output)["effects"]).set_index(["masked_language", "task", "metric"])
    row = effects.loc["vi", "mills", "acc"]
    assert row["unmasked"] + row["rise"] == pytest.approx(expected.mean())
    assert row["low"] <= row["rise"] <= row["high"]
    assert np.isnan(effects.loc["vi", "mills", "mcc"]["low"])
