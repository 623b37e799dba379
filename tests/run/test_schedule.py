import time
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from crane_lib.errors import CraneError
from crane_run import schedule
from crane_run.schedule import TIMES, Board, Row, Times, calibrate, check_disk, disk_needed, size_text
from crane_study.profile import Needs, load_profile

SMOKE = load_profile("smoke")


def board(seconds, after=None, jobs=2):
    return Board([Row(number, f"Section {number}", left) for number, left in seconds.items()], after or {}, jobs)


def start_all(found):
    started = []
    while (row := found.next()) is not None:
        row.start(str)
        started.append(row.number)
    return started


def test_sections_start_as_soon_as_what_they_wait_for_has_ended():
    found = board(dict.fromkeys(("00", "01", "02", "03"), 10.0), {"01": {"00"}, "03": {"00", "01"}})
    assert start_all(found) == ["00", "02"]
    found.row("02").stop("done")
    assert start_all(found) == []
    found.row("00").stop("failed")  # the others make what it did not
    assert start_all(found) == ["01"]
    found.row("01").stop("done")
    assert start_all(found) == ["03"]
    reused = board({"00": 10.0, "01": 10.0}, {"01": {"00", "99"}})  # 99 is not asked for
    reused.row("00").state = "reused"
    assert start_all(reused) == ["01"]
    # Several at once: the longest chain first. 03 is the longest by itself, but 02 has 04 after it.
    seconds, after = {"00": 10.0, "01": 10.0, "02": 20.0, "03": 25.0, "04": 10.0}, {"04": {"02"}}
    found = board(seconds, after)
    assert start_all(found) == ["02", "03"]
    found.row("02").stop("done")
    found.row("03").stop("done")
    assert start_all(found) == ["00", "01"]
    assert start_all(board(seconds, after, jobs=1)) == ["00"]


@pytest.mark.parametrize(
    ("seconds", "after", "jobs", "expected"),
    [
        ({}, {}, 2, 0),
        ({"00": 3, "01": 2, "02": 2}, {}, 1, 7),
        ({"00": 3, "01": 2, "02": 2}, {}, 2, 4),
        ({"00": 3, "01": 2, "02": 2}, {"01": {"00"}, "02": {"00"}}, 2, 5),
        ({"00": 3, "01": 2, "02": 2}, {"01": {"00"}, "02": {"00", "01"}}, 2, 7),
        ({"00": 3, "01": 2}, {"01": {"99"}}, 2, 3),
    ],
)
def test_seconds_until_all_is_done(seconds, after, jobs, expected):
    assert board(seconds, after, jobs).left == expected


def test_the_time_left_counts_what_runs_and_is_unknown_where_a_section_is(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: clock[0])
    found = board({"00": 30.0, "01": 10.0}, {"01": {"00"}})
    row = found.row("00")
    assert (row.elapsed, row.left, found.left) == (0.0, 30.0, 40.0)
    row.start(str)
    clock[0] += 12
    assert (row.elapsed, row.left, found.left) == (12.0, 18.0, 28.0)
    row.expected = None
    assert found.left is None
    row.expected = 30.0
    clock[0] += 100
    assert row.left == 0.0
    row.stop("done")
    clock[0] += 5
    assert (row.elapsed, row.left, row.state, found.left) == (112.0, 0.0, "done", 10.0)


def changed(**values):
    return SMOKE.model_copy(update=values)


def test_the_profiles_seconds_are_scaled_until_this_machine_has_its_own_record(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "calibrate", lambda: 0.006)
    for reference, seconds in ((0.002, 120.0), (None, 40.0)):
        times = Times(tmp_path, changed(expected_seconds={"00": 40.0}, calibration_seconds=reference), threads=2)
        assert (times.expected("00"), times.expected("01")) == (pytest.approx(seconds), None)
    monkeypatch.setattr(schedule, "calibrate", None)  # not asked any more
    Times(tmp_path, SMOKE, threads=2).keep("00", 12.3456)
    Times(tmp_path, SMOKE, threads=2).keep("01", 7.0)
    assert Times(tmp_path, SMOKE, threads=2).expected("00") == 12.35
    # The same study of another random seed, or with other words about it, takes as long ...
    other = changed(name="smoke-seed1", random_seed=1, description="other", expected_seconds={}, needs=Needs())
    assert Times(tmp_path, other, threads=2).expected("01") == 7.0
    # ... but not another one, or one with fewer threads.
    relevance = SMOKE.relevance.model_copy(update={"token_budget": 1})
    assert Times(tmp_path, changed(relevance=relevance, expected_seconds={}), threads=2).expected("00") is None
    bare = changed(expected_seconds={})
    assert Times(tmp_path, bare, threads=1).expected("00") is None
    (path,) = (tmp_path / TIMES).iterdir()
    for content in ("{half", "[]", '{"00": "soon"}'):
        path.write_text(content)
        assert Times(tmp_path, bare, threads=2).expected("00") is None
    Times(tmp_path, bare, threads=2).keep("00", 2.0)
    assert Times(tmp_path, bare, threads=2).expected("00") == 2.0


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_calibration_uses_one_thread_and_does_not_count_the_time_without_a_core(monkeypatch):
    """As where other processes have the cores: here it sleeps 50 ms in every piece of its work."""
    tanh, seen = np.tanh, []

    def wait(values):
        seen.append(blas_threads() if not seen else None)
        if len(seen) % 100 == 0:
            time.sleep(0.05)
        return tanh(values)

    monkeypatch.setattr(schedule, "_REPEATS", 5)
    monkeypatch.setattr(np, "tanh", wait)
    with threadpool_limits(2):
        before = blas_threads()
        assert 1e-5 < calibrate() < 0.05
        assert blas_threads() == before
    assert seen[0] == {1}
    assert len(seen) == 500


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    assert [size_text(size) for size in (0.04, 1.26, 14.4)] == ["40 MB", "1.3 GB", "14 GB"]
    monkeypatch.setattr(schedule.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2e9))
    folder = tmp_path / "deep" / "smoke"
    for needs in (Needs(disk_gb=1.9), Needs()):
        check_disk(changed(needs=needs), folder)
    with pytest.raises(CraneError, match=r"smoke: profile smoke needs 3\.0 GB more disk, 2\.0 GB are free; free some"):
        check_disk(changed(needs=Needs(disk_gb=3)), folder)
    assert not folder.parent.exists()
    profile = changed(needs=Needs(disk_gb=0.000003))
    folder.mkdir(parents=True)
    for name, needed in (("a", 0.000001), ("b", 0)):  # the files of an earlier run need no more disk
        (folder / name).write_bytes(b"x" * 2000)
        assert disk_needed(profile, folder) == pytest.approx(needed)
