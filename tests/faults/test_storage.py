"""A full disk, no inodes, a read-only disk, another file system, two at once: one line, and the next start goes on."""

import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from crane_lib.errors import CraneError
from crane_lib.files import atomic, sha256, write_json
from crane_run.runner import alone
from crane_study.frames import write_frame
from crane_study.own.statistics_folder import read_units
from tests.run.program import call
from tests.small import TEXTS, write_model_and_texts


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk, or change the limits of it; skips where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(limits):
        kind = ["-o", limits] if os.path.ismount(place) else ["-t", "tmpfs", "-o", limits, "tmpfs"]
        done = subprocess.run(["mount", *kind, str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        return place

    if shutil.which("mount") is None:
        pytest.skip("no program mount here")
    yield mounted
    while os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A tiny model and texts, and the statistics that an undisturbed command writes."""
    root = tmp_path_factory.mktemp("storage")
    write_model_and_texts(root)
    done = relevance(root, root / "stats")
    assert done.exit_code == 0, done.output
    return root


def relevance(root, output):
    corpora = [part for language in TEXTS for part in ("--corpus", f"{language}={root / language}.jsonl")]
    return call("relevance", "--model", root / "model", *corpora, "--documents", 4, "--out", output)


def hashes(folder):
    return {path.name: sha256(path) for path in folder.glob("*.safetensors")}


def fill(place, *, leave):
    """Fill a disk but for some bytes."""
    (place / "fill").write_bytes(b"\1" * (shutil.disk_usage(place).free - leave))


BIG = np.random.default_rng(0).random(200_000)
WRITERS = {
    "safetensors": lambda path: save_file({"x": torch.from_numpy(BIG)}, path),
    "torch": lambda path: torch.save([torch.from_numpy(BIG)], path),
    "numpy": lambda path: np.save(path.open("wb"), BIG),
    "text": lambda path: path.write_text("x" * 1_600_000),
}


@pytest.mark.parametrize("limits", ["size=1m", "size=9m,nr_inodes=1"], ids=["full", "no inodes"])
def test_whatever_writes_a_full_disk_is_one_line_and_nothing_stays(disk, limits):
    place = disk(limits)
    for name, write in WRITERS.items():
        with (
            pytest.raises(CraneError, match=rf"disk/{name}: the disk is full; free some space \(df -h\) or some files"),
            atomic(place / name) as temporary,
        ):
            write(temporary)
    with pytest.raises(CraneError, match="the disk is full"):
        write_frame(place / "a.parquet", pd.DataFrame({"x": BIG}))
    with pytest.raises(CraneError, match="the disk is full"):
        write_json(place / "a.json", "x" * 1_600_000)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("leave", [0, 8_192, 100_000])
def test_after_a_full_disk_the_same_command_goes_on_to_equal_bytes(disk, given, leave):
    place = disk("size=4m")
    fill(place, leave=leave)
    failed = relevance(given, place / "stats")
    assert isinstance(failed.exception, CraneError), failed.output
    assert "the disk is full" in str(failed.exception)
    assert not list(place.rglob(".*.partial"))
    (place / "fill").unlink()
    done = relevance(given, place / "stats")
    assert done.exit_code == 0, done.output
    assert hashes(place / "stats") == hashes(given / "stats") != {}
    read_units(place / "stats")


def test_a_read_only_disk_is_one_line(disk, given):
    place = disk("size=4m")
    disk("remount,ro")
    for failed in (
        relevance(given, place / "stats"),
        call("select", "--statistics", given / "stats", "--out", place / "sets.json"),
    ):
        assert isinstance(failed.exception, CraneError), failed.output
        assert "cannot be written" in str(failed.exception)
    with pytest.raises(CraneError, match=r"cannot be written \(Read-only file system\)"), alone(place):
        pass


def test_two_commands_on_one_folder_are_refused(given, tmp_path):
    with alone(tmp_path / "stats"):
        failed = relevance(given, tmp_path / "stats")
    assert "another run is at work there" in str(failed.exception)
    assert relevance(given, tmp_path / "stats").exit_code == 0
