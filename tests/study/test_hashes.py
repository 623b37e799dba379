import hashlib
import os
import shutil
import threading
import time

import numpy as np
import pytest

from crane_lib.interventions import export_masked
from crane_lib.neurons import NeuronSet
from crane_study import fingerprints as module
from crane_study.fingerprints import HASHES, Hashes
from tests.small import small_model, small_tokenizer


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two files of a directory."""
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


@pytest.mark.parametrize("position", [0, 5 << 20, (10 << 20) - 1])
def test_one_byte_anywhere_is_seen(runs, folder, position):
    before = Hashes(runs).directory(folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] = 1
    path.write_bytes(content)
    assert Hashes(runs).directory(folder) != before


def test_a_masked_checkpoint_is_not_the_model_it_was_made_of(runs, tmp_path):
    model = small_model(80_000)  # its embedding is 5 MB, and what is masked lies behind that
    for name, indices in (("whole", []), ("masked", [7])):
        sites = {"neuron": [np.array(indices, dtype=np.int64), np.array([], dtype=np.int64)]}
        export_masked(model, small_tokenizer(), NeuronSet(sites, {"neuron": 24}), tmp_path / name)
    whole, masked = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "masked"))
    assert (len(whole), whole[: 4 << 20]) == (len(masked), masked[: 4 << 20])
    assert Hashes(runs).directory(tmp_path / "whole") != Hashes(runs).directory(tmp_path / "masked")


def test_a_copy_has_the_same_hash_and_another_name_another(runs, folder, tmp_path):
    before = Hashes(runs).directory(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert Hashes(runs).directory(copy) == before
    (copy / "config.json").rename(copy / "other.json")
    assert Hashes(runs).directory(copy) != before


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


def test_a_file_that_changes_between_two_looks_of_one_process(runs, folder):
    hashes = Hashes(runs)
    before = hashes.directory(folder)
    (folder / "config.json").write_text("{ }")
    assert hashes.directory(folder) != before


@pytest.mark.parametrize("content", ["", "{half", "[]", '{"path": 1}'])
def test_a_record_that_cannot_be_read_is_no_record(runs, folder, settled, read, content):
    before = Hashes(runs).directory(folder)
    (runs / HASHES).write_text(content.replace("path", str(folder / "config.json")))
    assert Hashes(runs).directory(folder) == before
    assert len(read) == 4
    assert Hashes(runs).directory(folder) == before
    assert len(read) == 4


def test_sections_at_once_read_a_file_once(runs, folder, settled, monkeypatch):
    names, original = [], module._sha256

    def slowly(file, bar):
        names.append(file.name)
        time.sleep(0.2)
        return original(file, bar)

    monkeypatch.setattr(module, "_sha256", slowly)
    found = []
    threads = [threading.Thread(target=lambda: found.append(Hashes(runs).directory(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert sorted(names) == ["config.json", "model.safetensors"]
    assert [path.name for path in runs.iterdir()] == [HASHES]


def test_models_of_two_runs_are_remembered_together(runs, folder, tmp_path, settled, read):
    other = shutil.copytree(folder, tmp_path / "other")
    for path in (folder, other, folder, other):
        Hashes(runs).directory(path)
    assert len(read) == 4


def test_a_folder_that_cannot_be_written_to(runs, folder, settled, read, monkeypatch):
    expected = Hashes(runs).directory(folder)
    (runs / HASHES).unlink()
    monkeypatch.setattr(module.os, "access", lambda _path, _mode: False)
    assert Hashes(runs).directory(folder) == expected
    assert list(runs.iterdir()) == []
