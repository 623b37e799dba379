"""Files cut, with a bit flipped, emptied or of another run are noticed before a number is read from them.

``python -m tests.faults.damage artifacts/smoke --other artifacts/mini`` does so with every file of a finished run.
"""

import json
import random
import shutil
import subprocess
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from crane_lib.errors import CraneError
from crane_lib.files import sha256
from crane_lib.relevance import Statistics
from crane_run import verify
from crane_run.comparing import compare_results
from crane_run.runner import Run, finish
from crane_study import fetch
from crane_study.fingerprints import sealed
from crane_study.frames import keep_frame, kept_frame
from crane_study.loading import gguf_files
from crane_study.loading.gguf_files import ORIGIN, as_directory
from crane_study.own.judge import Judge
from crane_study.own.sets import read_sets, sets_of_scores
from crane_study.own.statistics_folder import read_units
from crane_study.paper.lape_list import load_tensors
from crane_study.profile import load_profile
from crane_study.store import complete
from tests.faults import damage
from tests.faults.damage import Checks, damaged, damages, run_files, survive_starts
from tests.gguf_model import write_gguf
from tests.run.program import call
from tests.run.small_run import make_run
from tests.small import TEXTS, small_model, write_model_and_texts


@pytest.fixture
def dice():
    return random.Random(0)


def test_every_file_of_a_run_is_checked_by_verify_and_stages_by_whoever_reads_them(tmp_path, dice):
    folder, other = make_run(tmp_path / "mini"), make_run(tmp_path / "other" / "mini", shift=1.0)
    checks, tried = Checks(folder, load_profile("mini")), 0
    for name in run_files(folder):
        for kind, content in damages(folder / name, other / name, dice=dice):
            if (name, kind) == ("stages/corpus/stage.json", "of another run"):
                continue  # of a stage of the same key, with the same files
            with damaged(folder / name, content):
                checks.hashes.damaged = folder / name
                assert checks.named(name), (name, kind)
                assert not name.startswith("stages/") or checks.stops(name), (name, kind)
            checks.hashes.damaged = None
            tried += 1
    assert tried > 60
    assert verify.verify(folder, against=verify.NO_REFERENCE).problems == []


def test_a_start_that_mends_nothing_is_noticed(tmp_path, monkeypatch, dice):
    folder = make_run(tmp_path / "mini")
    whole = shutil.copytree(folder, tmp_path / "whole")
    starts = []

    def start(command, *, mends, **_given):
        starts.append(command[-4:])
        if mends:
            shutil.copytree(whole, folder, dirs_exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(damage, "load_profile", lambda _path: load_profile("mini"))
    monkeypatch.setattr(damage.subprocess, "run", partial(start, mends=True))
    survive_starts(folder, starts=3, dice=dice)
    assert starts == [["--profile", "mini", "--artifacts", str(tmp_path)]] * 3
    monkeypatch.setattr(damage.subprocess, "run", partial(start, mends=False))
    with pytest.raises(AssertionError):
        survive_starts(folder, starts=1, dice=dice)


def test_damaged_reports_and_manifests_are_written_again(tmp_path, dice):
    folder = make_run(tmp_path / "mini")
    (folder / "claims.json").unlink()  # it is made up
    run = Run(load_profile("mini"), folder, [])
    finish(run, again=True)
    for name in ("report.md", "report.html", "manifest.json"):
        for _kind, content in damages(folder / name, None, dice=dice):
            (folder / name).write_bytes(content)
            finish(run, again=False)
            assert (folder / name).read_bytes() != content
            assert verify.verify(folder, against=verify.NO_REFERENCE).problems == []


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Statistics of a tiny model, sets in two forms, scores and results."""
    root = tmp_path_factory.mktemp("own")
    write_model_and_texts(root)
    texts = [part for language in TEXTS for part in ("--corpus", f"{language}={root / language}.jsonl")]
    texts += ["--documents", 4]
    again = ["relevance", "--model", root / "model", *texts, "--out", root / "stats"]
    sets = ["select", "--statistics", root / "stats", "--budget", 0.1, "--out", root / "sets.json"]
    sets += ["--scores", root / "scores.parquet", "--lape", root / "lape.pth"]
    results = ["evaluate", "--model", root / "model", "--sets", root / "sets.json", *texts]
    results += ["--out", root / "results.parquet"]
    for command in (again, sets, results):
        done = call(*command)
        assert done.exit_code == 0, done.output
    return root, again


READERS = {
    "stats/gold_logit.vi.safetensors": Statistics.load,
    "sets.json": read_sets,
    "scores.parquet": lambda path: sets_of_scores(path, 0.1),
    "results.parquet": lambda path: compare_results(path, path),
    "lape.pth": load_tensors,
}


@pytest.mark.parametrize("name", READERS)
def test_files_of_ones_own_study_are_read_as_they_were_written_or_refused(study, name):
    """A flipped bit in a part of the file that holds nothing of the content may pass; then the content is the same."""
    path, read, dice, passed = study[0] / name, READERS[name], random.Random(0), 0
    whole = repr(read(path))
    contents = [content for _ in range(40) for kind, content in damages(path, None, dice=dice) if kind == "flipped"]
    contents += [content for _kind, content in damages(path, None, dice=dice)]
    for content in contents:
        with damaged(path, content), suppress(CraneError):
            assert repr(read(path)) == whole
            passed += 1
    assert passed < 30  # of 43


def test_damaged_statistics_are_refused_and_made_again_by_the_same_command(study, dice):
    root, again = study
    before = {path.name: sha256(path) for path in sorted((root / "stats").glob("*.safetensors"))}
    foreign = root / "stats" / "gold_logit.vi.safetensors"
    for name in ("gold_logit.en.safetensors", "activations.en.safetensors"):
        path = root / "stats" / name
        for _kind, content in damages(path, foreign, dice=dice):
            path.write_bytes(content)
            with pytest.raises(CraneError, match="was changed after it was written; start the same crane relevance"):
                read_units(root / "stats")
            if name.startswith("gold") and _kind == "flipped":
                done = call(*again)
                assert done.exit_code == 0, done.output
                assert {path.name: sha256(path) for path in (root / "stats").glob("*.safetensors")} == before
    assert call(*again).exit_code == 0
    assert {path.name: sha256(path) for path in (root / "stats").glob("*.safetensors")} == before
    for _kind, content in damages(root / "stats" / "statistics.json", None, dice=dice):
        refused = pytest.raises(CraneError, match=r"statistics.json: (is not JSON|was changed|is not of statistics)")
        with damaged(root / "stats" / "statistics.json", content), refused:
            read_units(root / "stats")


def test_results_of_masks_that_are_damaged_or_of_others_are_measured_again(tmp_path, dice):
    texts = {language: [np.arange(start, start + 6) for start in (3, 5, 7)] for language in ("en", "vi")}
    chosen = np.zeros((2, 24), dtype=bool)
    chosen[1, :9] = True
    model, others = small_model(50), {**texts, "vi": texts["en"]}
    found = Judge(model, texts, kept=tmp_path).masked(chosen)
    (path,) = tmp_path.iterdir()
    whole, foreign = path.read_bytes(), tmp_path / "other.parquet"
    keep_frame(foreign, kept_frame(path, state=path.stem.partition(".")[2]) + 1, state="of another mask")
    for content in [content for _ in range(30) for _kind, content in damages(path, foreign, dice=dice)]:
        path.write_bytes(content)
        again = Judge(model, texts, kept=tmp_path).masked(chosen)
        assert np.array_equal(again, found)
        assert again.flags.c_contiguous
        assert np.array_equal(Judge(model, others, kept=tmp_path).masked(chosen), Judge(model, others).masked(chosen))
        path.write_bytes(whole)


def test_a_converted_model_is_converted_again_where_it_is_damaged(tmp_path, monkeypatch, dice):
    monkeypatch.setenv("CRANE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    write_gguf(file)
    folder = as_directory(file)
    before = {path.name: sha256(path) for path in folder.iterdir()}
    model = fetch.PackagedModel("x", tmp_path, "t", "u", (), sha256(file), 1, 1)
    monkeypatch.setitem(fetch.MODELS, "x", model)
    assert fetch.fetched_directory("x") == folder
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        for kind, content in damages(folder / name, None, dice=dice):
            if name == "model.safetensors" or kind == "flipped":
                (folder / name).write_bytes(content)
                gguf_files._is_as_written.cache_clear()  # as another process sees it
                with pytest.raises(CraneError, match="is damaged: a file is not as it was written; crane fetch x"):
                    fetch.fetched_directory("x")
                assert as_directory(file) == folder
                assert {path.name: sha256(path) for path in folder.iterdir()} == before
    assert ORIGIN in before


def test_a_record_that_says_something_else_is_none(tmp_path):
    folder = make_run(tmp_path / "mini") / "stages" / "corpus"
    record = json.loads((folder / "stage.json").read_text())
    assert complete(folder, record["key"]) == record
    changed = record | {"seconds": record["seconds"] + 1}
    (folder / "stage.json").write_text(json.dumps(changed))
    assert complete(folder, record["key"]) is None
    (folder / "stage.json").write_text(json.dumps(sealed(changed)))
    assert complete(folder, record["key"]) == sealed(changed)
    (folder / "documents.txt").write_text("documents 8")
    assert complete(folder, record["key"], sizes_only=True) == sealed(changed)
    assert complete(folder, record["key"]) is None
