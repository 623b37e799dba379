"""The benchmarks at their tiny size: every row is there, and what must agree does. No time is judged."""

import json
import mmap
import os
import subprocess
import sys

import pandas as pd
import pytest

from benchmarks import own, real
from benchmarks.contest import Contest
from benchmarks.masks import measure as measure_masks
from benchmarks.measurement import Measurement, peak_memory, ratio
from benchmarks.workloads import QUICK, random_documents, random_model
from crane_lib.relevance import stream_statistics
from crane_study import ROOT

ROWS = {"speed": 14, "vocabulary": 3, "memory": 11, "stream": 6, "processes": 6}


def benchmark(*arguments):
    command = [sys.executable, "-m", "benchmarks.relevance", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_quick_run_writes_every_row_and_its_numbers_agree(tmp_path):
    on_cpu = [argument for name in ROWS for argument in ("--only", name)]
    done = benchmark("--quick", "--output", tmp_path, *on_cpu)
    assert (done.returncode, done.stderr) == (0, "")
    name = "-".join([*ROWS, "quick"])
    found = pd.read_csv(tmp_path / f"relevance-{name}.csv", keep_default_na=False, na_values=["NaN"])
    assert list(found) == ["benchmark", "what", "value", "unit", "low", "high", "goal", "met"]
    counts = found.groupby("benchmark", sort=False).size().to_dict()
    if len(os.sched_getaffinity(0)) < 2:
        counts["processes"] = ROWS["processes"]  # one row that says so
    assert counts == ROWS
    assert not found.duplicated(["benchmark", "what"]).any()
    judged = found[found.met.isin(["yes", "no"])]
    assert {"row statistics, largest difference", "kurtosis of rows, largest difference"} <= set(judged.what)
    assert (judged.met == "yes").all()
    facts = json.loads((tmp_path / f"machine-{name}.json").read_text())
    assert list(facts["seconds"]) == list(ROWS)
    assert facts["torch"]


def test_a_wrong_name_is_one_line():
    done = benchmark("--only", "sped")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --only sped: no such benchmark; there are speed,")


def test_the_baselines_run_over_the_batches_of_ours_and_restore_the_model():
    workload = QUICK.speed
    model, documents = random_model(workload), random_documents(workload)
    contest = Contest(model, documents, workload.token_budget)
    contest.ours()
    seen = [ids[row, :length].tolist() for ids, lengths in contest.batches for row, length in enumerate(lengths)]
    assert sorted(seen) == sorted(document.tolist() for document in documents)
    assert max(ids.numel() for ids, _ in contest.batches) <= workload.token_budget
    before = contest.statistics.moments["neuron"].mean
    contest.released()
    contest.released_storing()
    contest.floor()
    assert not model.training
    assert all(not weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert all("forward" not in vars(module) and not module._forward_hooks for module in model.modules())
    contest.ours()
    assert contest.statistics.moments["neuron"].mean.equal(before)
    assert max(contest.disagreement().values()) < 1e-5
    contest.statistics = stream_statistics(contest.model, contest.documents, rule="gradient")  # other statistics
    other = contest.disagreement()
    assert other["row statistics"] > 0.01
    assert other["kurtosis of rows"] > 0.01


def test_a_ratio_is_taken_round_by_round_and_judged_by_its_goal():
    rounds = [{"a": 2.0, "b": 1.0}, {"b": 5.0}, {"a": 12.0, "b": 3.0}, {"a": 9.0, "b": 3.0}]
    found = ratio("speed", rounds, "a", "b", goal=">= 3")
    assert (found.value, found.low, found.high, found.met) == (3.0, 2.0, 4.0, True)
    for goal, met in {"< 2": False, "<= 2": True, ">= 2.1": False, "": None}.items():
        assert Measurement("speed", "x", 2.0, "s", goal=goal).met is met


def test_peak_memory_sees_what_was_freed_again():
    # From the system: malloc might give what was freed before and is still resident.
    with peak_memory() as peak, mmap.mmap(-1, 64 << 20) as block:
        for place in range(0, len(block), mmap.PAGESIZE):
            block[place] = 1
    assert 60e6 < peak.added < 90e6


def test_masks_are_measured_against_the_forward_passes_alone():
    rows = {row.what: row for row in measure_masks(masks=2, questions=4, rounds=2)}
    quotient = rows["all masks / forward passes alone"]
    assert quotient.goal == "<= 1.5"
    assert quotient.low <= quotient.value <= quotient.high
    assert rows["all masks"].value > 0


def test_relevance_and_masks_are_measured_with_a_large_vocabulary():
    model = real.random_gemma(layers=2, vocabulary=3000)
    documents = real.random_tokens(model, count=3, length=16)
    rows = {row.what: row for row in real.measure(model, documents, token_budget=64, masks=2, rounds=2)}
    assert rows["bare forward passes and loss / NLL under masks"].goal == ">= 0.9"
    assert rows["crane_lib / B, floor"].goal == "<= 1"
    assert rows["peak memory of evaluation, with the model"].value > 50


def test_the_sets_are_those_of_the_contrast_and_do_not_depend_on_batches():
    model = real.random_gemma(layers=2, vocabulary=300).double()
    every = real.random_tokens(model, count=8, length=16)
    sets = [real.contrast_sets(model, {"a": every[:4], "b": every[4:]}, token_budget=budget) for budget in (64, 32)]
    assert [len(one) for one in sets[0].values()] == [round(0.01 * 2 * 2048)] * 2
    assert not set(sets[0]["a"]) & set(sets[0]["b"])
    for name, chosen in sets[0].items():
        assert chosen.tolist() == sets[1][name].tolist()


def test_the_command_for_own_texts_is_put_beside_the_library(capsys):
    own.main(documents=8, hidden=16, layers=1, rounds=1)
    assert "ratio of the command, less start and activations" in capsys.readouterr().out
