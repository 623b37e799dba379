"""Every public function that takes a path takes a string and a Path."""

import inspect
import os
from pathlib import Path

import numpy as np
import pytest

import crane_lib
import crane_lib.relevance
from crane_lib import NeuronSet, export_masked, read_neuron_sets, stream_statistics, write_neuron_sets
from crane_lib.relevance import Statistics
from crane_lib.scores import statistics_file
from crane_run.inspect.run import open_run
from crane_study.data.user_files import read_documents, read_questions
from crane_study.loading.models import load_model
from crane_study.profile import load_profile
from crane_study.study import Study
from tests.small import write_study

STUDY = {"Study": Study, "load_profile": load_profile, "open_run": open_run}
STUDY |= {"load_model": load_model, "read_documents": read_documents, "read_questions": read_questions}


def functions(name, given):
    """Public functions under a name, and public methods of a class."""
    if not inspect.isclass(given):
        return {name: given} if callable(given) else {}
    return {f"{name}.{own}": each for own, each in inspect.getmembers(given, callable) if not own.startswith("_")}


def public():
    named = {name: getattr(module, name) for module in (crane_lib, crane_lib.relevance) for name in module.__all__}
    every = [functions(name, given) for name, given in (named | STUDY).items()]
    return {name: function for part in every for name, function in part.items()}


def paths_of(function):
    """Annotations of the parameters that are paths."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a class written in C
        return {}
    return {given.name: str(given.annotation) for given in parameters if "Path" in str(given.annotation)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study")).parent


def calls(folder, out):
    """A call of every public function with a path, which takes that path."""
    model, tokenizer = load_model(folder / "model", device="cpu")
    nothing = NeuronSet({"neuron": [np.array([], dtype=int)] * 2}, {"neuron": 24}, language="vi")
    statistics = stream_statistics(model, [[1, 2, 3]] * 8)
    scores = out / "relevance"
    for name in ("gold_logit", "gradient"):
        statistics.save(statistics_file(scores, name, "vi"))
    write_neuron_sets(out / "sets.json", [nothing])
    statistics.save(out / "statistics.safetensors")
    (out / "runs/small/stages").mkdir(parents=True)
    return {
        "Statistics.load": (Statistics.load, out / "statistics.safetensors"),
        "Statistics.save": (statistics.save, out / "again.safetensors"),
        "UnitScores.read": (
            lambda path: crane_lib.UnitScores.read(path, languages=["vi"], objective="gold_logit"),
            scores,
        ),
        "export_masked": (lambda path: export_masked(model, tokenizer, nothing, path), out / "masked"),
        "load_model": (lambda path: load_model(path, device="cpu"), folder / "model"),
        "read_neuron_sets": (read_neuron_sets, out / "sets.json"),
        "stream_statistics": (lambda path: stream_statistics(model, [[1, 2]], folder=path), out / "shards"),
        "write_neuron_sets": (lambda path: write_neuron_sets(path, [nothing]), out / "more.json"),
        "Study.open": (lambda path: Study.open(folder / "small.yaml", artifacts=path), out / "artifacts"),
        "Study.open, profile": (lambda path: Study.open(path, artifacts=out / "artifacts"), folder / "small.yaml"),
        "load_profile": (load_profile, folder / "small.yaml"),
        "open_run": (lambda path: open_run(path, artifacts=out / "runs"), folder / "small.yaml"),
        "read_documents": (read_documents, folder / "vi.jsonl"),
        "read_questions": (read_questions, folder / "questions.vi.jsonl"),
    }


@pytest.mark.parametrize("kind", [str, Path])
def test_strings_and_paths_are_taken(kind, folder, tmp_path):
    """By every function whose signature has a path, and none has a `Path` alone."""
    with_paths = {name: found for name, function in public().items() if (found := paths_of(function))}
    assert all("str | os.PathLike[str]" in one for found in with_paths.values() for one in found.values())
    tried = calls(folder, tmp_path)
    assert {name.partition(",")[0] for name in tried} == set(with_paths)
    for take, path in tried.values():
        given = kind(path)
        assert isinstance(given, str | os.PathLike)
        take(given)
