import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, read_json, sha256, write_json, write_text


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_half(target, problem):
    with atomic(target) as temporary:
        if target.is_dir():
            shutil.copytree(target, temporary / "deep")
        else:
            temporary.write_text("half")
        raise problem


def test_a_file_or_directory_takes_its_name_at_the_end_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    for name in ("old.txt", "new.txt"):
        with atomic(tmp_path / "stage") as temporary:
            temporary.mkdir()
            (temporary / name).write_text("x")
    assert left_in(tmp_path) == ["new", "new/a.txt", "stage", "stage/new.txt"]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_a_directory_that_failed_leaves_what_was_there(tmp_path, interruption):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "old.txt").write_text("before")
    with pytest.raises(interruption):
        write_half(tmp_path / "stage", interruption())
    assert left_in(tmp_path) == ["stage", "stage/old.txt"]


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "full"), CraneError, "a.txt: the disk is full; free some space"),
        (
            OSError(errno.EACCES, "refused"),
            CraneError,
            r"cannot be written \(Permission denied\); choose another",
        ),
        (OSError(errno.EROFS, "read-only"), CraneError, "a.txt: cannot be written.*choose another"),
        (OSError(errno.EIO, "Input/output error"), OSError, "Input/output"),
        (ZeroDivisionError("other"), ZeroDivisionError, "other"),
    ],
)
def test_a_file_that_failed_leaves_what_was_there_and_names_a_place_that_cannot_be_written(
    tmp_path, monkeypatch, problem, kind, words
):
    def fail(*_names):
        raise problem

    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(kind, match=words):
        write_half(target, problem)
    monkeypatch.setattr(os, "replace", fail)  # at the last step
    with pytest.raises(kind, match=words):
        write_text(target, "text")
    assert target.read_text() == "before"
    assert left_in(tmp_path) == ["a.txt"]


def test_a_place_without_folders_or_where_even_tidying_up_fails(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "taken").write_text("a file")
    for below in ("a.txt", "deeper/a.txt"):
        with pytest.raises(CraneError, match="choose another folder"):
            write_text(tmp_path / "taken" / below, "text")
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CraneError, match="choose another folder"):
        write_text(tmp_path / "new" / "a.txt", "text")


def test_json_is_utf_8_without_nan(tmp_path):
    value, path = {"z": "越南语", "a": [1, 2.5, None, True], "tiếng": {"b": "Việt"}}, tmp_path / "a.json"
    write_json(path, value)
    assert read_json(path) == value
    text = path.read_bytes().decode("utf-8")
    assert "越南语" in text
    assert list(json.loads(text)) == ["z", "a", "tiếng"]
    assert text.endswith("}\n")
    for refused in (float("nan"), float("inf"), {"deep": [float("-inf")]}):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "b.json", refused)
    assert left_in(tmp_path) == ["a.json"]
    with pytest.raises(CraneError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")
    for broken in (b"{half", b'"\xff"'):
        path.write_bytes(broken)
        with pytest.raises(CraneError, match=r"a\.json: is not JSON"):
            read_json(path)


def test_hashes_of_files_and_of_values_in_any_order(tmp_path):
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    # Known once for all machines and Python versions.
    digest = hashlib.sha256('{"a": 1, "b": [1, 2], "c": "语"}'.encode()).hexdigest()
    assert fingerprint({"c": "语", "b": [1, 2], "a": 1}) == digest[:16]
    assert fingerprint({"a": 1, "b": [2, 1], "c": "语"}) != digest[:16]
    assert fingerprint({"a": "1"}) != fingerprint({"a": 1})
