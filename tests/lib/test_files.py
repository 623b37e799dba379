import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, read_json, sha256, write_json, write_text


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_half(target, problem):
    with atomic(target) as temporary:
        temporary.write_text("half")
        raise problem


def make_half(target, problem):
    with atomic(target) as temporary:
        temporary.mkdir()
        (temporary / "deep").mkdir()
        (temporary / "deep" / "new.txt").write_text("half")
        raise problem


def test_a_file_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert left_in(tmp_path) == ["new", "new/a.txt"]


def test_a_file_that_failed_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(ZeroDivisionError):
        write_half(target, ZeroDivisionError())
    assert target.read_text() == "before"
    assert left_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_a_directory_that_failed_leaves_what_was_there(tmp_path, interruption):
    target = tmp_path / "stage"
    target.mkdir()
    (target / "old.txt").write_text("before")
    with pytest.raises(interruption):
        make_half(target, interruption())
    assert left_in(tmp_path) == ["stage", "stage/old.txt"]


def test_a_directory_replaces_the_whole_of_the_old_one(tmp_path):
    target = tmp_path / "stage"
    target.mkdir()
    (target / "old.txt").write_text("before")
    with atomic(target) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("after")
    assert left_in(tmp_path) == ["stage", "stage/new.txt"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EACCES, "cannot be written.*choose another"),
        (errno.EROFS, "cannot be written.*choose another"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, number, words):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(CraneError, match=f"a.txt: {words}"):
        write_half(target, OSError(number, os.strerror(number)))
    assert target.read_text() == "before"
    assert left_in(tmp_path) == ["a.txt"]


def test_a_full_disk_at_the_last_step_leaves_nothing(tmp_path, monkeypatch):
    def full(*_names):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CraneError, match="disk is full"):
        write_text(tmp_path / "a.txt", "text")
    assert left_in(tmp_path) == []


def test_a_read_only_place_where_even_tidying_up_fails(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CraneError, match="choose another --artifacts"):
        write_text(tmp_path / "new" / "a.txt", "text")


@pytest.mark.parametrize("below", ["a.txt", "deeper/a.txt"])
def test_a_file_where_a_folder_is_needed(tmp_path, below):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CraneError, match="choose another --artifacts"):
        write_text(tmp_path / "taken" / below, "text")


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(OSError, match="Input/output"):
        write_half(tmp_path / "a.txt", OSError(errno.EIO, os.strerror(errno.EIO)))


def test_text_and_json_are_utf_8(tmp_path):
    value = {"z": "越南语", "a": [1, 2.5, None, True], "tiếng": {"b": "Việt"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert "越南语" in text
    assert list(json.loads(text)) == ["z", "a", "tiếng"]
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}])
def test_json_without_nan(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", value)
    assert left_in(tmp_path) == []


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(CraneError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{half")
    with pytest.raises(CraneError, match=r"a\.json: is not JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'"\xff"')
    with pytest.raises(CraneError, match=r"a\.json: is not JSON"):
        read_json(tmp_path / "a.json")


def test_sha256_of_more_than_one_block(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_fingerprints_are_of_the_value_and_not_of_its_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [1, 2]}) != fingerprint({"a": 1, "b": [2, 1]})
    assert fingerprint({"a": "1"}) != fingerprint({"a": 1})
    # Known once for all machines and Python versions.
    digest = hashlib.sha256('{"a": 1, "b": "语"}'.encode()).hexdigest()
    assert fingerprint({"b": "语", "a": 1}) == digest[:16]
