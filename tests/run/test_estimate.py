import time
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from crane_lib.errors import CraneError
from crane_run import schedule as estimate
from crane_run.schedule import TIMES, Times, calibrate, check_disk, disk_needed, size_text
from crane_study.profile import Needs, load_profile

SMOKE = load_profile("smoke")


def changed(**values):
    return SMOKE.model_copy(update=values)


def test_before_the_first_run_the_profiles_seconds_are_scaled_by_this_machines_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "calibrate", lambda: 0.006)
    profile = changed(expected_seconds={"00": 40.0}, calibration_seconds=0.002)
    times = Times(tmp_path, profile, threads=2)
    assert times.expected("00") == pytest.approx(120.0)
    assert times.expected("01") is None
    assert Times(tmp_path, changed(expected_seconds={"00": 40.0}, calibration_seconds=None), threads=2).expected(
        "00"
    ) == pytest.approx(40.0)


def test_after_it_this_machines_own_record_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "calibrate", None)  # not asked any more
    Times(tmp_path, SMOKE, threads=2).keep("00", 12.3456)
    Times(tmp_path, SMOKE, threads=2).keep("01", 7.0)
    assert Times(tmp_path, SMOKE, threads=2).expected("00") == 12.35
    # The same study of another random seed, or with other words about it, takes as long ...
    other = changed(name="smoke-seed1", random_seed=1, description="other", expected_seconds={}, needs=Needs())
    assert Times(tmp_path, other, threads=2).expected("01") == 7.0
    # ... but not another one, or one with fewer threads.
    relevance = SMOKE.relevance.model_copy(update={"token_budget": 1})
    assert Times(tmp_path, changed(relevance=relevance, expected_seconds={}), threads=2).expected("00") is None
    assert Times(tmp_path, changed(expected_seconds={}), threads=1).expected("00") is None


@pytest.mark.parametrize("content", ["{half", "[]", '{"00": "soon"}'])
def test_a_record_that_cannot_be_read_is_no_record(tmp_path, content):
    profile = changed(expected_seconds={})
    Times(tmp_path, profile, threads=2).keep("00", 1.0)
    (path,) = (tmp_path / TIMES).iterdir()
    path.write_text(content)
    times = Times(tmp_path, profile, threads=2)
    assert times.expected("00") is None
    times.keep("00", 2.0)
    assert times.expected("00") == 2.0


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_calibration_measures_something():
    assert 1e-5 < calibrate() < 10


def test_calibration_uses_one_thread_and_then_as_many_as_before(monkeypatch):
    seen, tanh = [], np.tanh

    def look(values):
        if not seen:
            seen.append(blas_threads())
        return tanh(values)

    monkeypatch.setattr(np, "tanh", look)
    with threadpool_limits(2):
        before = blas_threads()
        calibrate()
        assert seen == [{1}]
        assert blas_threads() == before


def test_calibration_does_not_count_the_time_without_a_core(monkeypatch):
    """As where other processes have the cores: here it sleeps 50 ms in every piece of its work."""
    tanh, calls = np.tanh, []

    def wait(values):
        calls.append(0)
        if len(calls) % 100 == 0:
            time.sleep(0.05)
        return tanh(values)

    monkeypatch.setattr(estimate, "_REPEATS", 5)
    monkeypatch.setattr(np, "tanh", wait)
    assert calibrate() < 0.05
    assert len(calls) == 500


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2e9))
    folder = tmp_path / "deep" / "smoke"
    check_disk(changed(needs=Needs(disk_gb=1.9)), folder)
    check_disk(changed(needs=Needs()), folder)
    with pytest.raises(CraneError, match=r"smoke: profile smoke needs 3\.0 GB more disk, 2\.0 GB are free; free some"):
        check_disk(changed(needs=Needs(disk_gb=3)), folder)
    assert not folder.parent.exists()


def test_what_lies_there_already_needs_no_more_disk(tmp_path):
    profile = changed(needs=Needs(disk_gb=0.000003))
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "file").write_bytes(b"x" * 2000)
    assert disk_needed(profile, tmp_path) == pytest.approx(0.000001)
    (tmp_path / "file").write_bytes(b"x" * 2000)
    assert disk_needed(profile, tmp_path) == 0


@pytest.mark.parametrize(("size", "text"), [(0.04, "40 MB"), (1.26, "1.3 GB"), (9.94, "9.9 GB"), (14.4, "14 GB")])
def test_sizes(size, text):
    assert size_text(size) == text
