import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from crane_lib.interventions import export_masked
from crane_lib.neurons import NeuronSet
from crane_study import fingerprints as module
from crane_study.fingerprints import HASHES, Hashes
from tests.small import small_model, small_tokenizer


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def folder(tmp_path):
    """A directory with two files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(10 << 20))
    return folder


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled as soon as they are written."""
    monkeypatch.setattr(module, "_SETTLED", -10.0)


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    names = []
    original = module._sha256
    monkeypatch.setattr(module, "_sha256", lambda file, bar: names.append(file.name) or original(file, bar))
    return names


def test_the_hash_is_of_content_and_names(runs, folder, tmp_path):
    hashes = Hashes(runs)
    before = hashes.directory(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert Hashes(runs).directory(copy) == before
    (copy / "config.json").rename(copy / "other.json")
    assert Hashes(runs).directory(copy) != before
    path, seen = folder / "model.safetensors", {before}
    for position in (0, 5 << 20, (10 << 20) - 1):  # one byte anywhere is seen, also by the process that looked before
        content = bytearray(path.read_bytes())
        content[position] = 1
        path.write_bytes(content)
        seen.add(hashes.directory(folder))
        assert Hashes(runs).directory(folder) in seen
    assert len(seen) == 4


def test_a_masked_checkpoint_is_not_the_model_it_was_made_of(runs, tmp_path):
    model = small_model(80_000)  # its embedding is 5 MB, and what is masked lies behind that
    for name, indices in (("whole", []), ("masked", [7])):
        sites = {"neuron": [np.array(indices, dtype=np.int64), np.array([], dtype=np.int64)]}
        export_masked(model, small_tokenizer(), NeuronSet(sites, {"neuron": 24}), tmp_path / name)
    whole, masked = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "masked"))
    assert (len(whole), whole[: 4 << 20]) == (len(masked), masked[: 4 << 20])
    assert Hashes(runs).directory(tmp_path / "whole") != Hashes(runs).directory(tmp_path / "masked")


def test_what_was_read_once_is_remembered_until_it_changes(runs, folder, settled, read):
    before = Hashes(runs).directory(folder)
    assert read == ["config.json", "model.safetensors"]
    assert Hashes(runs).directory(folder) == before
    assert len(read) == 2
    assert [path.name for path in runs.iterdir()] == [HASHES]
    # As large, and with the time of before: the inode's own time tells.
    path = folder / "config.json"
    times = path.stat()
    path.write_text("[]")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Hashes(runs).directory(folder) != before
    assert read[2:] == ["config.json"]


def test_a_file_that_has_just_changed_is_not_remembered_for_others(runs, folder, read):
    """It may change again within the same tick of the clock."""
    hashes = Hashes(runs)
    for _time in range(3):
        hashes.directory(folder)
    assert len(read) == 2  # one process reads it once
    Hashes(runs).directory(folder)
    assert len(read) == 4
    assert list(runs.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_not_remembered(runs, folder, settled, monkeypatch):
    original = module._sha256

    def changing(file, bar):
        found = original(file, bar)
        with file.open("ab") as stream:
            stream.write(b"more")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "_sha256", changing)
        Hashes(runs).directory(folder)
    assert list(runs.iterdir()) == []
    found = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert Hashes(runs)._of({folder / "config.json"}) == {folder / "config.json": found}


@pytest.mark.parametrize("content", ["", "{half", "[]", '{"path": 1}'])
def test_a_record_that_cannot_be_read_is_no_record(runs, folder, settled, read, content):
    before = Hashes(runs).directory(folder)
    (runs / HASHES).write_text(content.replace("path", str(folder / "config.json")))
    for _time in range(2):
        assert Hashes(runs).directory(folder) == before
        assert len(read) == 4


def test_sections_at_once_read_a_file_once(runs, folder, settled, monkeypatch):
    names, original = [], module._sha256

    def slowly(file, bar):
        names.append(file.name)
        time.sleep(0.2)
        return original(file, bar)

    monkeypatch.setattr(module, "_sha256", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _number: Hashes(runs).directory(folder), range(4)))
    assert len(found) == 1
    assert sorted(names) == ["config.json", "model.safetensors"]
    assert [path.name for path in runs.iterdir()] == [HASHES]


def test_two_models_are_remembered_together_unless_the_folder_is_read_only(
    runs, folder, tmp_path, settled, read, monkeypatch
):
    other = shutil.copytree(folder, tmp_path / "other")
    found = {Hashes(runs).directory(path) for path in (folder, other, folder, other)}
    assert len(read) == 4
    (runs / HASHES).unlink()
    monkeypatch.setattr(module.os, "access", lambda _path, _mode: False)
    assert {Hashes(runs).directory(folder)} == found
    assert list(runs.iterdir()) == []
