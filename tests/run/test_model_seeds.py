"""The study over several model seeds."""

import json
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
from crane_run.seeds import read_seeds_reference, write_summary
from crane_study.frames import read_frame, write_frame
from crane_study.paper.claims import VERDICTS, Results, judge
from crane_study.paper.verdicts import write_claims
from crane_study.profile import load_profile
from tests.run.notebooks import FakeExecution, write_notebook, write_sections
from tests.run.small_run import make_run
from tests.small import write_study
from tests.study.outputs import synthetic

SMOKE = load_profile("smoke")
LANGUAGES = ("en", "zh", "vi")


def write_tables(home, seed, *, reached=True):
    """The tables of sections 03 and 06 that a summary reads, of two methods; contrast does 1 nat of damage or not."""
    sets = {"model": "base", "selected_on": "base", "method": ["contrast", "everything"], "budget": ["0.1", "1"]}
    scores = {"metric": "token_probability", "precision": [0.9, 0.5], "recall": [0.5 + 0.1 * seed, 1.0]}
    write_frame(
        home / "tables" / "03_langspec.csv", pd.DataFrame({**sets, **scores, "mean": [0.6 + 0.02 * seed, 0.66]})
    )
    rises = {"method": "contrast", "masked_language": LANGUAGES, "damage": 1.0}
    worst = [0.1 + 0.01 * seed if reached or code != "vi" else np.nan for code in LANGUAGES]
    write_frame(home / "tables" / "06_matched_damage.csv", pd.DataFrame({**rises, "worst": worst}))
    mean = {"method": ["contrast"], "damage": 1.0, "worst": np.mean(worst)}
    write_frame(home / "tables" / "06_matched_summary.csv", pd.DataFrame(mean))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A study of one section without a kernel, whose results depend on the profile's random seed."""
    folder = write_sections(tmp_path / "notebooks", monkeypatch, _09={})
    write_notebook(folder / "09_claims.ipynb", "pass", title="Claims")
    state = SimpleNamespace(seeds=[], problems={}, claims=True)

    class Executed(FakeExecution):
        def work(self, home):
            seed = yaml.safe_load(Path(self.parameters["profile"]).read_text(encoding="utf-8"))["random_seed"]
            state.seeds.append(seed)
            if seed not in state.problems:
                write_tables(home, seed)
            if state.claims and seed not in state.problems:
                rows = synthetic.make_rows(synthetic.FEW_METHODS, seed=seed)
                write_frame(home / "results.csv", rows)
                claims = judge(Results(synthetic.make_resampled(rows)), budget=0.1)
                write_claims(home / "claims.json", claims, profile="x")
            return state.problems.get(seed)

    monkeypatch.setattr(runner, "Execution", Executed)
    return state


def start(root, count=2):
    run = Run(SMOKE, root / "smoke", sections.choose_sections([], None))
    return run_seeds(run, count, fresh=False, console=Console())


def test_runs_of_seeds_leave_out_the_one_that_was_tuned_on(tmp_path):
    profile = SMOKE.model_copy(update={"random_seed": 3})
    found = seed_runs(Run(profile, tmp_path / "smoke", [], jobs=2), 3)
    seen = [(run.profile.name, run.profile.random_seed, run.jobs) for run in found]
    assert seen == [("smoke-seed4", 4, 2), ("smoke-seed5", 5, 2), ("smoke-seed6", 6, 2)]
    assert [run.folder for run in found] == [tmp_path / run.profile.name for run in found]
    assert found[1].profile.source == SMOKE.source
    for count in (1, -1):
        with pytest.raises(CraneError, match=f"--seeds {count}: expected 2 or more"):
            seed_runs(Run(SMOKE, tmp_path, []), count)
    with pytest.raises(CraneError, match=r"profile small has models of its own, no seed changes them"):
        seed_runs(Run(load_profile(str(write_study(tmp_path))), tmp_path, []), 2)


def test_every_seed_has_a_folder_and_the_ordinary_run_the_summary(tmp_path, work, capsys):
    assert start(tmp_path, 2) == 0
    assert start(tmp_path, 3) == 0
    assert work.seeds == [1, 2, 3]  # only what is new is made
    runs = ["smoke-seed1", "smoke-seed2", "smoke-seed3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".times", "notebooks", "smoke", *runs]
    said = capsys.readouterr().out
    summary = tmp_path / "smoke" / "seeds"
    for words in ("Model seed 2 of 3 (random seed 2)", "reused, nothing changed", str(summary / "report.md")):
        assert words in said
    assert list(read_json(summary / "seeds.json")["seeds"]) == ["1", "2", "3"]
    scores = read_frame(summary / "tables" / "langspec.csv").set_index(["method", "score"])
    row, each = scores.loc["contrast", "recall"], [0.6, 0.7, 0.8]
    assert (row["mean"], row["deviation"]) == (pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    assert row["high"] - row["mean"] == pytest.approx(4.30265 * np.std(each, ddof=1) / 3**0.5, rel=1e-5)
    assert scores.loc["everything", "precision"]["mean"] == 0.5
    rises = read_frame(summary / "tables" / "matched_damage.csv").set_index(["method", "damage", "masked_language"])
    assert [rises.loc["contrast", 1.0, place]["mean"] for place in (*LANGUAGES, "all")] == pytest.approx([0.12] * 4)
    verdicts = pd.read_csv(summary / "tables" / "verdicts.csv")
    assert (verdicts[list(VERDICTS)].sum(axis=1) == 3).all()
    write_reports(tmp_path / "smoke")
    report = (tmp_path / "smoke" / "report.md").read_text()
    assert "## Over model seeds" in report
    links = re.findall(r"\]\((seeds/[^)]+)\)", report)
    assert links
    assert all((tmp_path / "smoke" / link).is_file() for link in links)
    (tmp_path / "smoke-seed2" / "results.csv").write_text("changed")
    write_reports(tmp_path / "smoke")
    assert "was made of earlier results" in (tmp_path / "smoke" / "report.md").read_text()


def test_a_failed_seed_leaves_no_summary_and_missing_verdicts_only_no_verdicts(tmp_path, work, capsys):
    work.problems[2] = "no memory"
    assert start(tmp_path) == 1
    assert "No summary over seeds" in capsys.readouterr().out
    assert not (tmp_path / "smoke" / "seeds").exists()
    work.problems.clear()
    work.claims = False
    assert start(tmp_path) == 0
    assert work.seeds == [1, 2, 2]
    made = sorted(path.name for path in (tmp_path / "smoke" / "seeds" / "tables").glob("*.csv"))
    assert made == ["langspec.csv", "matched_damage.csv"]  # seed 2 has neither results.csv nor verdicts


def test_a_mean_over_languages_needs_each_of_them_and_a_summary_two_seeds(tmp_path):
    folders = {seed: tmp_path / f"mini-seed{seed}" for seed in (1, 2, 3)}
    for seed, folder in folders.items():
        write_tables(folder, seed, reached=seed != 2)
    write_summary(folders, tmp_path / "seeds")
    rises = read_frame(tmp_path / "seeds" / "tables" / "matched_damage.csv").set_index("masked_language")
    assert rises["seeds"].to_dict() == {"en": 3, "zh": 3, "vi": 2, "all": 2}
    assert rises.loc["vi", "mean"] == pytest.approx(0.12)  # of seeds 1 and 3
    for few in ({1: folders[1]}, {1: tmp_path / "none", 2: tmp_path / "nothing"}):
        with pytest.raises(CraneError, match="expected two seeds with sections 03 or 06 done"):
            write_summary(few, tmp_path / "other")


def seed_folder(root, seed, **given):
    """A finished small run of a seed, with the tables of a summary."""
    profile = yaml.safe_dump({**SMOKE.resolved(), "name": f"smoke-seed{seed}", "random_seed": seed})
    (root / f"{seed}.yaml").write_text(profile)

    def also(folder):
        (folder / "claims.json").unlink()
        write_tables(folder, seed)

    return make_run(root / f"smoke-seed{seed}", profile=str(root / f"{seed}.yaml"), also=also, **given)


def test_finished_folders_are_summarized_and_kept_as_one_small_file(tmp_path, main, complaint):
    runs = [seed_folder(tmp_path, seed) for seed in (2, 1, 4)]
    kept = tmp_path / "kept.json"
    code, said, _err = main("seeds", *runs, "--reference", kept, "--allow-dirty")
    assert code == 0
    assert f"{tmp_path / 'smoke' / 'seeds' / 'report.md'}: random seeds 1, 2, 4" in said
    found = read_seeds_reference(kept)
    assert (found.profile, found.random_seeds) == ("smoke", [1, 2, 4])
    assert found.made_with["commit"] == json.loads((runs[0] / "manifest.json").read_text())["commit"]
    table = found.tables["matched_damage"]
    assert table.key == ["method", "damage", "masked_language"]
    row = dict(zip(table.columns, table.rows["contrast / 1 / all"], strict=True))
    assert (row["mean"], row["seeds"]) == (pytest.approx(0.1 + 0.07 / 3, rel=1e-5), 3)
    dirty = seed_folder(tmp_path, 5, dirty=True)
    assert "uncommitted changes" in complaint("seeds", runs[0], dirty)
    assert "a random seed of its own" in complaint("seeds", runs[0], runs[0], "--allow-dirty")
    (runs[1] / "results.csv").write_text("changed")
    assert "results.csv: was changed after the run" in complaint("seeds", *runs, "--allow-dirty")
    kept.write_text("{}")
    with pytest.raises(CraneError, match="is not a summary over seeds"):
        read_seeds_reference(kept)
