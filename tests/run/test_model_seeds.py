"""The study over several model seeds."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_run import runner, sections
from crane_run.console import Console
from crane_run.report import write_reports
from crane_run.runner import Run, run_seeds, seed_runs
from crane_study.frames import read_frame, write_frame
from crane_study.paper.claims import VERDICTS, Results, judge, write_claims
from crane_study.profile import load_profile
from tests.run.notebooks import FakeExecution, write_notebook, write_sections
from tests.small import write_study
from tests.study.outputs import synthetic

SMOKE = load_profile("smoke")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A study of one section without a kernel, whose results depend on the profile's random seed."""
    folder = write_sections(tmp_path / "notebooks", monkeypatch, _09={})
    write_notebook(folder / "09_claims.ipynb", "pass", title="Claims")
    state = SimpleNamespace(seeds=[], problems={}, results=True)

    class Executed(FakeExecution):
        def work(self, home):
            seed = yaml.safe_load(Path(self.parameters["profile"]).read_text(encoding="utf-8"))["random_seed"]
            state.seeds.append(seed)
            if state.results and seed not in state.problems:
                rows = synthetic.make_rows(synthetic.FEW_METHODS, seed=seed)
                rows["value"] *= 1 + 0.01 * seed
                langspec = synthetic.make_langspec(rows)
                write_frame(home / "results.csv", rows)
                write_frame(home / "langspec.csv", langspec)
                claims = judge(Results(synthetic.make_resampled(rows)), budget=0.1)
                write_claims(home / "claims.json", claims, profile="x")
            return state.problems.get(seed)

    monkeypatch.setattr(runner, "Execution", Executed)
    return state


def start(root, count=2):
    run = Run(SMOKE, root / "smoke", sections.choose_sections([], None))
    return run_seeds(seed_runs(run, count), fresh=False, console=Console())


def test_runs_of_seeds(tmp_path):
    profile = SMOKE.model_copy(update={"random_seed": 3})
    found = seed_runs(Run(profile, tmp_path / "smoke", [], jobs=2), 3)
    seen = [(run.profile.name, run.profile.random_seed, run.jobs) for run in found]
    assert seen == [("smoke", 3, 2), ("smoke-seed4", 4, 2), ("smoke-seed5", 5, 2)]
    assert [run.folder for run in found] == [tmp_path / run.profile.name for run in found]
    assert found[1].profile.source == SMOKE.source
    for count in (1, -1):
        with pytest.raises(CraneError, match=f"--seeds {count}: expected 2 or more"):
            seed_runs(Run(SMOKE, tmp_path, []), count)
    with pytest.raises(CraneError, match=r"profile small has models of its own, no seed changes them"):
        seed_runs(Run(load_profile(str(write_study(tmp_path))), tmp_path, []), 2)


def test_every_seed_has_a_folder_and_the_first_the_summary(tmp_path, work, capsys):
    assert start(tmp_path, 2) == 0
    assert start(tmp_path, 3) == 0
    assert work.seeds == [0, 1, 2]  # only what is new is made
    runs = ["smoke", "smoke-seed1", "smoke-seed2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".times", "notebooks", *runs]
    said = capsys.readouterr().out
    summary = tmp_path / "smoke" / "seeds"
    for words in ("Model seed 2 of 3 (random seed 1)", "reused, nothing changed", str(summary / "report.md")):
        assert words in said
    assert list(read_json(summary / "seeds.json")["seeds"]) == ["0", "1", "2"]
    one = "model == 'base' and method == 'contrast' and metric == 'token_probability'"
    row = read_frame(summary / "tables" / "langspec.csv").query(one).iloc[0]
    each = [read_frame(tmp_path / name / "langspec.csv").query(one)["langspec_f1"].mean() for name in runs]
    assert (row["mean"], row["deviation"]) == (pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    assert row["high"] - row["mean"] == pytest.approx(4.30265 * np.std(each, ddof=1) / 3**0.5, rel=1e-5)
    verdicts = pd.read_csv(summary / "tables" / "verdicts.csv")
    assert (verdicts[list(VERDICTS)].sum(axis=1) == 3).all()
    report = (tmp_path / "smoke" / "report.md").read_text()
    assert "## Over model seeds" in report
    links = re.findall(r"\]\((seeds/[^)]+)\)", report)
    assert links
    assert all((tmp_path / "smoke" / link).is_file() for link in links)
    (tmp_path / "smoke" / "results.csv").write_text("changed")
    write_reports(tmp_path / "smoke")
    assert "was made of earlier results" in (tmp_path / "smoke" / "report.md").read_text()


def test_without_every_seed_and_its_claims_there_is_no_summary(tmp_path, work, capsys):
    work.results = False
    assert start(tmp_path) == 0
    assert "No summary over seeds: random seed 0 has no results.csv" in capsys.readouterr().out
    work.results = True
    write_notebook(tmp_path / "notebooks" / "09_claims.ipynb", "1", title="Claims")
    work.problems[1] = "no memory"
    assert start(tmp_path) == 1
    assert "No summary over seeds" in capsys.readouterr().out
    assert not (tmp_path / "smoke" / "seeds").exists()
    work.problems.clear()
    assert start(tmp_path) == 0
    assert work.seeds == [0, 1, 0, 1, 1]
    assert (tmp_path / "smoke" / "seeds" / "report.md").is_file()
