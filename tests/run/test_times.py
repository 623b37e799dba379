import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from crane_run import times as module
from crane_run.sections import all_sections
from crane_run.times import TIMES, Times, calibrate
from crane_study.profile import Needs, load_profile

SMOKE = load_profile("smoke").retrained()


def changed(**values):
    return SMOKE.model_copy(update=values)


def times(folder, profile=SMOKE, *, threads=1, jobs=2):
    return Times(folder, profile, threads=threads, jobs=jobs)


def test_the_profiles_seconds_are_scaled_until_this_machine_has_its_own_record(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "all_threads", lambda: 2)
    monkeypatch.setattr(module, "calibrate", lambda _profile, *, places: 0.003 * places)
    for reference, seconds in ((0.002, 120.0), (None, 40.0)):
        found = times(tmp_path, changed(expected_seconds={"00": 40.0}, calibration_seconds=reference))
        assert (found.expected("00"), found.expected("01")) == (pytest.approx(seconds), None)
    assert found.pace == (2.0, 1.0)  # one section alone would be twice as fast as one of two
    monkeypatch.setattr(module, "calibrate", None)  # not asked any more
    assert times(tmp_path, jobs=1).pace == ()
    times(tmp_path).keep({"00": 12.3456, "corpus": 3.0})
    times(tmp_path).keep({"01": 7.0})
    assert [times(tmp_path).expected(part) for part in ("00", "corpus", "01")] == [12.35, 3.0, 7.0]
    # The same study of another random seed, or with other words about it, takes as long ...
    other = changed(name="smoke-seed1", random_seed=1, description="other", expected_seconds={}, needs=Needs())
    assert times(tmp_path, other).expected("01") == 7.0
    # ... but not another one, or one with fewer threads or sections at once.
    relevance = SMOKE.relevance.model_copy(update={"token_budget": 1})
    assert times(tmp_path, changed(relevance=relevance, expected_seconds={})).expected("00") is None
    bare = changed(expected_seconds={})
    assert times(tmp_path, bare, threads=2).expected("00") is None
    assert times(tmp_path, bare, jobs=1).expected("00") is None
    (path,) = (tmp_path / TIMES).iterdir()
    for content in ("{half", "[]", '{"00": "soon"}'):
        path.write_text(content)
        assert times(tmp_path, bare).expected("00") is None
    times(tmp_path, bare).keep({"00": 2.0})
    assert times(tmp_path, bare).expected("00") == 2.0


def test_training_counts_only_where_there_will_be_some(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "all_threads", lambda: 2)
    profile = load_profile("smoke").model_copy(
        update={"expected_seconds": {"base_model": 300.0}, "calibration_seconds": None}
    )
    assert times(tmp_path, profile).expected("base_model") < 1
    times(tmp_path, profile).keep({"base_model": 0.3})
    for trained in (profile.retrained(), profile.model_copy(update={"random_seed": 1})):  # none is released for that
        assert times(tmp_path, trained).expected("base_model") == 300.0


def test_a_profile_that_knows_its_hours_only_shares_them_out(tmp_path):
    profile = load_profile("qwen2.5-0.5b")
    found = times(tmp_path, profile, jobs=1)
    parts = {name for section in all_sections() for name in (section.number, *section.declared.stages)} | {"report"}
    known = [seconds for part in parts if (seconds := found.expected(part)) is not None]
    assert sum(known) == pytest.approx(3600 * profile.needs.hours, rel=0.1)
    assert found.expected("perplexity_base") > found.expected("09") > 0


def test_what_is_computed_with_all_threads_takes_longer_with_one(tmp_path, monkeypatch):
    profile = changed(expected_seconds={"relevance_base": 10.0, "nlu_base": 10.0}, calibration_seconds=None)
    for threads, low, high in ((1, 14, 18), (2, 10, 10), (64, 5, 8)):
        monkeypatch.setattr(module, "all_threads", lambda threads=threads: threads)
        found = times(tmp_path, profile)
        assert low <= found.expected("relevance_base") <= high
        assert found.expected("nlu_base") == 10.0


def test_calibration_computes_in_one_thread_per_section_and_counts_the_time_without_a_core(monkeypatch):
    tanh, seen = np.tanh, []

    def wait(values, out):
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        time.sleep(0.05)  # others have the core
        return tanh(values, out=out)

    monkeypatch.setattr(module, "_SECONDS", 0.01)
    monkeypatch.setattr(np, "tanh", wait)
    with threadpool_limits(2):
        assert calibrate(SMOKE, places=3) > 0.05
    assert seen == [{1}] * 3
