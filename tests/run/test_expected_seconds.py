import pytest

from crane_lib.errors import CraneError
from crane_run.runner import Run
from crane_run.sections import all_sections
from crane_study.profile import load_profile
from tools import expected_seconds as tool

TEXT = "name: x\nexpected_seconds: {}\ncalibration_seconds: 1\nneeds: {}\n"


def test_the_two_entries_of_a_profile_are_replaced():
    text = tool.with_seconds(TEXT, {"00": 12.5, "corpus": 3.0}, 0.00341234)
    entries = 'expected_seconds: {"00": 12.5, corpus: 3}\ncalibration_seconds: 0.00341\n'
    assert text == f"name: x\n{entries}needs: {{}}\n"
    with pytest.raises(CraneError, match="one line that begins with expected_seconds:, seen 0"):
        tool.with_seconds("name: x\n", {}, 1.0)


def test_the_seconds_of_training_stay_unless_the_run_trained(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "smoke.yaml"
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "calibrate", lambda _profile, *, places: 0.001 * places)
    monkeypatch.setattr(tool, "fitting_jobs", lambda _profile: 2)
    profile = load_profile("smoke")
    path.write_text(TEXT)
    with pytest.raises(CraneError, match="no run of section 00 is recorded here"):
        tool.main("smoke", str(tmp_path))
    for loaded, trained in ((profile, False), (profile.retrained(), True)):
        made = {"base_model": 77.0, **{section.number: 1.0 for section in all_sections()}}
        Run(loaded, tmp_path / "smoke", [], jobs=2).times.keep(made)
        path.write_text(TEXT)
        tool.main("smoke", str(tmp_path), trained)
        seconds = 77 if trained else profile.expected_seconds["base_model"]
        assert f"base_model: {seconds:g}," in path.read_text() or f"base_model: {seconds:g}}}" in path.read_text()
