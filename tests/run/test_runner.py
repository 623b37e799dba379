import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_json, sha256, write_json
from crane_run import runner, sections
from crane_run.console import Console
from crane_run.runner import Run, run_sections
from crane_study import ROOT, machine
from crane_study.fingerprints import sealed
from crane_study.profile import load_profile
from crane_study.publish import keep_not_run, read_not_run
from tests.run.notebooks import FakeExecution, is_alive, names, outputs, wait_until, write_notebook, write_sections

PROFILE = load_profile("smoke")


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Three sections, of which none needs another: each prints and writes a table."""
    folder = write_sections(tmp_path / "notebooks", monkeypatch, _00={}, _01={}, _02={})
    for number, title in enumerate(("First", "Second", "Third")):
        write_notebook(folder / f"0{number}_{title.lower()}.ipynb", f"print({number})", title=title)
    return folder


@pytest.fixture
def work(monkeypatch):
    """Execution without a process: writes what a section writes, fails or is interrupted where told to."""
    state = SimpleNamespace(done=[], given=[], variables={}, problems={}, tables={}, stages={})

    class Executed(FakeExecution):
        def work(self, folder):
            number = self.number
            state.done.append(number)
            state.given.append(self.parameters)
            state.variables[number] = self.variables
            for name in state.tables.get(number, [f"{number}_a.csv"]):
                (folder / "tables").mkdir(exist_ok=True)
                (folder / "tables" / name).write_text(f"made {len(state.done)}")
            for name, seconds in state.stages.get(number, {}).items():
                about = {"name": name, "key": "k", "section": number, "seconds": seconds, "inputs": {}, "outputs": {}}
                write_json(folder / "stages" / name / "stage.json", sealed(about))
            return state.problems.get(number)

    monkeypatch.setattr(runner, "Execution", Executed)
    return state


def start(root, *, only=(), parameters=None, fresh=False, profile=PROFILE, jobs=1):
    chosen = sections.choose_sections(list(only), None)
    run = Run(profile, root / profile.name, chosen, dict(parameters or {}), jobs)
    return run_sections(run, fresh=fresh, console=Console())


def record(root, name):
    return read_json(root / "smoke" / "sections" / f"{name}.json")


def declare(folder, monkeypatch, **declared):
    """Declare the three sections again, with the given entries."""
    write_sections(folder, monkeypatch, **{"_00": {}, "_01": {}, "_02": {}, **declared})


def change(folder):
    write_notebook(folder / "01_second.ipynb", "print('changed')", title="Second")


def make_old(*paths):
    for path in paths:
        os.utime(path, (time.time() - 100, time.time() - 100))


AFTER_FIRST = {"_01": {"needs": ["00"]}, "_02": {"needs": ["00"]}}
OTHER_SEED = PROFILE.model_copy(update={"random_seed": 8})


def test_every_section_is_run_in_order_and_the_next_start_reuses_all(tmp_path, notebooks, work, capsys):
    assert start(tmp_path) == 0
    said = capsys.readouterr().out
    for words in ("First: done in", "All 3 sections done in", str(tmp_path / "smoke" / "report.md")):
        assert words in said
    written = [path for path in (tmp_path / "smoke").rglob("*.*") if path.name not in (".lock", "profile.yaml")]
    times = {path: path.stat().st_mtime_ns for path in written}
    assert len(times) >= 14
    manifest = read_json(tmp_path / "smoke" / "manifest.json")
    assert [item["section"] for item in manifest["sections"]] == ["00_first", "01_second", "02_third"]
    assert {"tables/00_a.csv", "notebooks/02_third.ipynb", "report.md", "profile.yaml"} <= set(manifest["outputs"])
    assert all(sha256(tmp_path / "smoke" / name) == value for name, value in manifest["outputs"].items())
    assert str(tmp_path) not in json.dumps(manifest)
    assert start(tmp_path) == 0
    assert work.done == ["00", "01", "02"]
    assert capsys.readouterr().out.count("reused, nothing changed") == 3
    assert {path: path.stat().st_mtime_ns for path in times} == times
    leftover = tmp_path / "smoke" / "stages" / "old"
    leftover.mkdir(parents=True)
    (tmp_path / "mini").mkdir()
    assert start(tmp_path, fresh=True) == 0
    assert work.done == ["00", "01", "02"] * 2
    assert not leftover.exists()
    assert (tmp_path / "mini").is_dir()


def test_another_profile_or_parameter_runs_all_again(tmp_path, notebooks, work):
    assert start(tmp_path, only=["02"]) == 0
    assert work.done == ["02"]
    assert start(tmp_path) == 0
    assert work.done == ["02", "00", "01"]
    start(tmp_path, profile=OTHER_SEED)
    start(tmp_path, profile=OTHER_SEED, parameters={"value": 2})
    assert work.done[3:] == ["00", "01", "02"] * 2


def test_sections_are_told_the_profile_and_the_folder(tmp_path, notebooks, work):
    start(tmp_path, only=["01"], parameters={"value": 5})
    place = tmp_path / "smoke" / "profile.yaml"
    assert work.given == [{"profile": str(place), "artifacts": str(tmp_path), "value": 5}]
    assert load_profile(str(place)) == PROFILE
    assert yaml.safe_load(place.read_text()) == PROFILE.resolved()


def test_a_failure_does_not_stop_the_others_and_the_exit_code_is_1(tmp_path, notebooks, work, capsys):
    work.problems["01"] = "no such set"
    assert start(tmp_path) == 1
    assert work.done == ["00", "01", "02"]
    said = capsys.readouterr().out
    failed = str(tmp_path / "smoke" / "notebooks" / "01_second.failed.ipynb")
    for words in ("01  Second: FAILED after", ": no such set", failed, "1 of 3 sections failed"):
        assert words in said
    seen = record(tmp_path, "01_second")
    assert (seen["status"], seen["error"]) == ("failed", "no such set")
    manifest = read_json(tmp_path / "smoke" / "manifest.json")
    assert [item["status"] for item in manifest["sections"]] == ["done", "failed", "done"]
    del work.problems["01"]
    work.done.clear()
    assert start(tmp_path, jobs=2) == 0
    assert work.done == ["01"]
    manifest = read_json(tmp_path / "smoke" / "manifest.json")
    assert [(item["status"], item["jobs"]) for item in manifest["sections"]] == [("done", 1), ("done", 2), ("done", 1)]


def test_a_failure_takes_the_sections_older_outputs_away(tmp_path, notebooks, work):
    """Else the report would show, as today's, what an earlier state of the code had made."""
    start(tmp_path)
    folder = tmp_path / "smoke"
    for number in ("01", "02"):
        keep_not_run(folder, number, what="a part", reason="no model")
    assert names(folder / "tables") == ["00_a.csv", "01_a.csv", "02_a.csv"]
    work.problems["01"], work.tables["01"] = "no such set", []
    assert start(tmp_path, profile=OTHER_SEED) == 1
    assert names(folder / "tables") == ["00_a.csv", "02_a.csv"]
    assert not (folder / "notebooks" / "01_second.ipynb").exists()
    assert read_not_run(folder) == {"02": {"a part": "no model"}}
    assert "Section 02, a part: no model." in (folder / "report.md").read_text()


@pytest.mark.parametrize(("judge", "again"), [("endpoint", ["00", "01"]), ("offline", ["00"])])
def test_what_went_without_a_judges_scores_is_done_again_with_them(
    tmp_path, notebooks, work, monkeypatch, judge, again
):
    declare(notebooks, monkeypatch, _01={"needs": ["00"]})
    options = PROFILE.open_ended.model_copy(update={"judge": judge})
    profile = PROFILE.model_copy(update={"open_ended": options})
    work.problems["00"] = "judge: cannot be reached"
    assert start(tmp_path, profile=profile) == 1
    del work.problems["00"]
    work.done.clear()
    for _ in range(2):
        assert start(tmp_path, profile=profile) == 0
        assert work.done == again


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("../notebooks/01_second.ipynb", "changed"),
        ("tables/01_a.csv", None),
        ("notebooks/01_second.ipynb", None),
        ("sections/01_second.json", None),
        ("sections/01_second.json", "{half"),
        ("sections/01_second.json", "[]"),
    ],
)
def test_a_section_whose_source_or_output_changed_is_run_again(tmp_path, notebooks, work, file, content):
    start(tmp_path)
    work.done.clear()
    if content == "changed":
        change(notebooks)
    elif content is None:
        (tmp_path / "smoke" / file).unlink()
    else:
        (tmp_path / "smoke" / file).write_text(content)
    assert start(tmp_path) == 0
    assert work.done == ["01"]
    assert (tmp_path / "smoke" / "tables" / "01_a.csv").is_file()


@pytest.mark.parametrize("ahead", [0, 3600, -3600])
def test_outputs_are_those_of_the_last_execution(tmp_path, notebooks, work, monkeypatch, ahead):
    """Whatever time it is on the file server; a file of the whole run is of the section that declares it."""
    ours = Path.stat

    def theirs(path, **options):
        found = ours(path, **options)
        return os.stat_result(tuple(found), {"st_mtime": found.st_mtime + ahead, "st_mtime_ns": found.st_mtime_ns})

    monkeypatch.setattr(Path, "stat", theirs)
    declare(notebooks, monkeypatch, _01={"outputs": ["results.csv"]})
    work.tables["01"] = ["01_a.csv", "01_old.csv", "../results.csv"]
    assert start(tmp_path) == 0
    made = ["notebooks/01_second.ipynb", "tables/01_a.csv", "tables/01_old.csv", "results.csv"]
    assert record(tmp_path, "01_second")["outputs"] == made
    assert record(tmp_path, "02_third")["outputs"] == ["notebooks/02_third.ipynb", "tables/02_a.csv"]
    assert start(tmp_path) == 0
    assert work.done == ["00", "01", "02"]  # all is there, and is reused
    tables = tmp_path / "smoke" / "tables"
    make_old(*tables.iterdir())
    work.tables["01"] = ["01_a.csv", "../results.csv"]
    change(notebooks)
    assert start(tmp_path) == 0
    assert names(tables) == ["00_a.csv", "01_a.csv", "02_a.csv"]
    assert not [path for path in (tmp_path / "smoke").rglob(".*") if path.name != ".lock"]


def test_outputs_stay_where_the_clock_goes_back_while_they_are_made(tmp_path, notebooks, work, monkeypatch):
    write = Path.write_text

    def written_yesterday(path, *given, **options):
        write(path, *given, **options)
        make_old(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", written_yesterday)
        assert start(tmp_path, only=["01"]) == 0
    assert record(tmp_path, "01_second")["outputs"] == ["notebooks/01_second.ipynb", "tables/01_a.csv"]
    assert (tmp_path / "smoke" / "tables" / "01_a.csv").is_file()


@pytest.mark.parametrize("damage", [b"made 1", b"made 3", b""])
@pytest.mark.parametrize("file", ["tables/01_a.csv", "captions.json"])
def test_a_damaged_output_is_made_again(tmp_path, notebooks, work, file, damage):
    write_json(tmp_path / "smoke" / "captions.json", {"tables/01_a": "one", "tables/02_a": "two"})
    start(tmp_path)
    work.done.clear()
    (tmp_path / "smoke" / file).write_bytes(damage)
    assert start(tmp_path) == 0
    assert work.done == (["01"] if file.startswith("tables") else ["01", "02"])


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_section_is_not_trusted_even_when_all_is_as_it_was(tmp_path, notebooks, work, problem):
    start(tmp_path)
    original = (notebooks / "01_second.ipynb").read_bytes()
    change(notebooks)
    work.problems["01"] = problem()
    with pytest.raises(problem):
        start(tmp_path)
    # Half of the outputs are the changed notebook's; the change is taken back.
    (notebooks / "01_second.ipynb").write_bytes(original)
    work.problems.clear()
    work.done.clear()
    assert start(tmp_path) == 0
    assert work.done == ["01"]


def test_after_an_interruption_the_rest_is_done_and_nothing_twice(tmp_path, notebooks, work):
    logs = tmp_path / "smoke" / "logs"
    work.problems["01"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert names(logs) == ["00_first.log", "01_second.log"]
    assert "end: done after 0." in (logs / "00_first.log").read_text().splitlines()[-1]
    assert (logs / "01_second.log").read_text().splitlines()[-1].startswith("interrupted after 0.")
    work.problems["01"] = "no such set"
    assert start(tmp_path) == 1
    assert (logs / "01_second.log").read_text().splitlines()[-1].endswith("s: no such set")
    assert work.done == ["00", "01", "01", "02"]
    assert {"report.md", "report.html"} <= set(names(tmp_path / "smoke"))


def test_a_report_that_was_not_written_in_time_is_written_next_time(tmp_path, notebooks, work, monkeypatch):
    start(tmp_path)
    change(notebooks)

    def interrupted(_run, *, again):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path)
    assert start(tmp_path) == 0
    manifest = read_json(tmp_path / "smoke" / "manifest.json")
    assert manifest["sections"][1] == record(tmp_path, "01_second")
    for name in ("report.md", "report.html"):
        assert manifest["outputs"][name] == sha256(tmp_path / "smoke" / name)


def test_what_cannot_be_run_is_refused_before_anything_is_done_or_thrown_away(tmp_path, notebooks, work):
    start(tmp_path)
    work.done.clear()
    with pytest.raises(CraneError, match=r"00_first\.ipynb: unknown parameter 'valeu'; did you mean 'value'"):
        start(tmp_path, parameters={"valeu": 3}, fresh=True)
    folder = tmp_path / "smoke"
    with runner.alone(folder), pytest.raises(CraneError, match="smoke: another run is at work there"):
        start(tmp_path, fresh=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(CraneError, match=r"cannot be written .*; choose another --artifacts"):
        start(tmp_path / "file")
    partial = folder / "stages" / ".corpus.0a1b2c3d.partial"  # of a run that was killed
    partial.mkdir(parents=True)
    assert start(tmp_path) == 0
    assert work.done == []
    assert not partial.exists()


def test_times_are_remembered_beside_the_runs(tmp_path, notebooks, work):
    profile = PROFILE.model_copy(update={"expected_seconds": {"00": 30.0}, "calibration_seconds": None})
    run = Run(profile, tmp_path / "smoke", sections.choose_sections([], None))
    assert [run.times.expected(part) for part in ("00", "01", "corpus")] == [30.0, None, None]
    work.stages["01"] = {"corpus": 500.0}
    run_sections(run, fresh=True, console=Console())
    assert [run.times.expected(part) for part in ("00", "01", "02", "corpus")] == [0.1, 0.1, 0.1, 500.0]


def test_the_time_of_a_stage_is_told_where_it_has_to_be_made(tmp_path, notebooks, work, monkeypatch):
    first, second = {"stages": ["corpus"]}, {"needs": ["00"], "stages": ["relevance", "unknown"]}
    declare(notebooks, monkeypatch, _00=first, _01=second)
    seconds = {"00": 1.0, "01": 2.0, "02": 4.0, "corpus": 10.0, "relevance": 20.0}
    profile = PROFILE.model_copy(update={"expected_seconds": seconds, "calibration_seconds": None})

    monkeypatch.setattr("crane_run.times.all_threads", lambda: 2)

    def planned(*only, fresh=False):
        run = Run(profile, tmp_path / "smoke", sections.choose_sections(list(only), None))
        board = runner.plan(run, {section.number: run.key(section) for section in run.sections}, fresh=fresh)
        return board.left, board.most, {row.number: row.left for row in board.rows}

    assert planned() == (37, 37, {"00": 11, "01": 22, "02": 4})
    assert planned("01") == (32, 32, {"01": 32})  # it makes what the first would have made
    stage = tmp_path / "smoke" / "stages" / "corpus" / "stage.json"
    stage.parent.mkdir(parents=True)
    stage.write_text("{}")
    assert planned() == (27, 37, {"00": 1, "01": 22, "02": 4})
    assert planned(fresh=True)[0] == 37


def test_jobs_share_the_cores_out_and_start_what_may_start(tmp_path, notebooks, work, monkeypatch):
    def variables(name):
        return {given.get(name) for given in work.variables.values()}

    declare(notebooks, monkeypatch, **AFTER_FIRST)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert start(tmp_path, jobs=2) == 0
    assert work.done[0] == "00"
    # Also where nothing can run beside: a section computes in every start as in a full one.
    assert (variables("OMP_NUM_THREADS"), variables("CRANE_THREADS")) == ({"4"}, {"8"})
    assert [record(tmp_path, name)["threads"] for name in ("00_first", "01_second")] == [4, 4]
    # Threads wait asleep and memory is kept, unless the user wants otherwise.
    assert (variables("OMP_WAIT_POLICY"), variables("MALLOC_TRIM_THRESHOLD_")) == ({"PASSIVE"}, {"4294967296"})
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    work.variables.clear()
    start(tmp_path, only=["01"], fresh=True, jobs=2)
    assert (variables("OMP_NUM_THREADS"), variables("CRANE_THREADS")) == ({"4"}, {"8"})
    assert variables("OMP_WAIT_POLICY") == {"ACTIVE"}
    start(tmp_path, fresh=True)
    assert (variables("OMP_NUM_THREADS"), variables("CRANE_THREADS")) == ({None}, {"8"})
    monkeypatch.setattr(runner, "cores_are_limited", lambda: True)
    monkeypatch.setattr(machine, "granted_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    start(tmp_path, fresh=True)
    assert variables("OMP_NUM_THREADS") == {"3"}


@pytest.mark.parametrize(
    ("cores", "gigabytes", "jobs"), [(1, 24, 1), (2, 24, 2), (3, 24, 3), (64, 24, 4), (64, 4.2, 2), (64, 1, 1)]
)
def test_jobs_that_fit_the_machine_where_models_are_small(monkeypatch, cores, gigabytes, jobs):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "granted_cores", lambda: cores)
    monkeypatch.setattr(runner, "granted_memory", lambda: int(gigabytes * 1e9))
    large = load_profile("llama2-7b")
    small = large.model_copy(update={"rehearsal": True})
    assert [runner.fitting_jobs(profile) for profile in (PROFILE, small, large)] == [jobs, jobs, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runner.fitting_jobs(PROFILE) == 1


# Fails while objects with the key are at hand, as a section with a judge may.
JUDGED = """import os
from crane_study.measure.judgings import Endpoint
assert os.environ["HF_TOKEN"] == os.environ["CRANE_JUDGE_KEY"]
def ask(endpoint, key):
    print(endpoint)
    if not os.path.exists({flag!r}):
        raise RuntimeError("no flag yet")
ask(Endpoint("http://127.0.0.1:9/v1", "m", os.environ["CRANE_JUDGE_KEY"]), os.environ["HF_TOKEN"])
print("flag seen")"""


def test_with_real_kernels_a_failure_and_then_a_second_start(tmp_path, notebooks, monkeypatch, capfd):
    secret, flag = "hf_canary-7c1d", tmp_path / "flag"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CRANE_JUDGE_KEY"):
        monkeypatch.setenv(name, secret)
    cell = JUDGED.format(flag=str(flag))
    write_notebook(notebooks / "00_first.ipynb", cell, title="First")
    assert start(tmp_path, only=["00", "01"]) == 1
    executed = tmp_path / "smoke" / "notebooks"
    assert names(executed) == ["00_first.failed.ipynb", "01_second.ipynb"]
    assert record(tmp_path, "00_first")["error"] == "cell 4: RuntimeError: no flag yet"
    files = {path.name: path.read_bytes() for path in (tmp_path / "smoke").rglob("*") if path.is_file()}
    assert {"manifest.json", "report.html", "00_first.log"} <= files.keys()
    assert not [name for name, content in files.items() if secret.encode() in content]
    assert secret not in "".join(capfd.readouterr())
    before = (executed / "01_second.ipynb").read_bytes()
    flag.write_text("")
    assert start(tmp_path, only=["00", "01"]) == 0
    assert names(executed) == ["00_first.ipynb", "01_second.ipynb"]
    assert outputs(executed / "00_first.ipynb").endswith("flag seen\n")
    assert (executed / "01_second.ipynb").read_bytes() == before
    assert not [path for path in (tmp_path / "smoke").rglob(".*") if path.name != ".lock"]


def test_sections_at_once_that_need_one_stage_make_it_once_a_start(tmp_path, notebooks):
    """Each waits until the other is there, so they do work at once; then both ask for the stage, which fails first."""
    cell = """
import os, pathlib, time
from crane_lib.errors import CraneError
from crane_study.store import Store

folder = pathlib.Path(artifacts)
me = os.environ["CRANE_SECTION"]
(folder / f"{me}.{value}").write_text(me)
limit = time.monotonic() + 120
while len(list(folder.glob(f"*.{value}"))) < 2 and time.monotonic() < limit:
    time.sleep(0.01)

def make(stage):
    time.sleep(1)
    with (folder / "tries").open("a") as stream:
        stream.write(str(value))
    if value == 1:
        raise CraneError("the loss became nan at step 7")
    (stage / "maker.txt").write_text(me)

stage = Store(folder / "smoke" / "stages").run("shared", make)
print("reused", stage.reused, "maker", (stage / "maker.txt").read_text())
"""
    both = ("00_first", "01_second")
    for name in both:
        write_notebook(notebooks / f"{name}.ipynb", cell, title=name)
    assert start(tmp_path, only=["00", "01"], jobs=2) == 1
    assert [record(tmp_path, name)["error"] for name in both] == ["cell 4: the loss became nan at step 7"] * 2
    assert names(tmp_path / "smoke" / "stages") == []
    assert start(tmp_path, only=["00", "01"], jobs=2, parameters={"value": 2}) == 0
    assert (tmp_path / "tries").read_text() == "12"
    printed = [outputs(tmp_path / "smoke" / "notebooks" / f"{name}.ipynb") for name in both]
    assert sorted("reused True" in text for text in printed) == [False, True]
    maker = read_json(tmp_path / "smoke" / "stages" / "shared" / "stage.json")["section"]
    assert all(f"maker {maker}" in text for text in printed)
    waited = ["shared: waiting, another section is making it" in text for text in printed]
    assert waited == [maker != "00", maker != "01"]
    assert not list((tmp_path / "smoke" / "stages").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_sections_at_work_and_the_next_start_goes_on(tmp_path, notebooks, monkeypatch, number):
    """SIGKILL included, which only the sections' own processes can notice."""
    if number == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("SIGINT is ignored by what is started in the background, as these tests were")
    declare(notebooks, monkeypatch, **AFTER_FIRST)
    write_notebook(notebooks / "00_first.ipynb", "print('quick')", title="First")
    cell = """
import os, pathlib, time
path = pathlib.Path(artifacts) / (os.environ['CRANE_SECTION'] + '.pid')
if not path.is_file():
    path.with_suffix('.partial').write_text(f'{os.getpid()} {os.getppid()}')
    path.with_suffix('.partial').rename(path)
    time.sleep(600)
"""
    for name in ("01_second", "02_third"):
        write_notebook(notebooks / f"{name}.ipynb", cell, title=name)
    program = f"""
import pathlib
from crane_run import sections
from crane_run.cli import app
sections.NOTEBOOKS = pathlib.Path({str(notebooks)!r})
sections.DECLARED = sections.NOTEBOOKS / "sections.yaml"
app(["run", "--profile", "smoke", "--jobs", "2", "--artifacts", {str(tmp_path)!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    paths = [tmp_path / f"{section}.pid" for section in ("01", "02")]
    try:
        wait_until(lambda: all(path.is_file() for path in paths) or process.poll() is not None)
        process.send_signal(number)
        _out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert (process.returncode, err) == (130, "interrupted; start again to go on where it stopped\n")
    processes = [int(word) for path in paths for word in path.read_text().split()]
    assert len(processes) == 4
    wait_until(lambda: not any(map(is_alive, processes)), seconds=10)
    assert record(tmp_path, "00_first")["status"] == "done"
    assert not [path for path in (tmp_path / "smoke").rglob("*") if path.name == "02_third.json"]
    log = tmp_path / "smoke" / "logs" / "01_second.log"
    assert "] Executing Cell 4-" in log.read_text()
    before = (tmp_path / "smoke" / "notebooks" / "00_first.ipynb").read_bytes()
    assert start(tmp_path, jobs=2) == 0
    assert (tmp_path / "smoke" / "notebooks" / "00_first.ipynb").read_bytes() == before
    assert log.read_text().count("] start: ") == 2  # what the interrupted start printed is still there
    assert not list((tmp_path / "smoke").rglob(".*partial*"))


def test_the_open_questions_and_the_judge_are_part_of_a_sections_key(tmp_path, notebooks, work, monkeypatch):
    questions = {language: tmp_path / f"{language}.txt" for language in ("en", "zh", "vi")}
    for path in questions.values():
        path.write_text("?")

    def key(**changes):
        options = PROFILE.open_ended.model_copy(update={"questions": questions} | changes)
        profile = PROFILE.model_copy(update={"open_ended": options})
        return Run(profile, tmp_path, sections.all_sections()).key(sections.all_sections()[0])

    before = key()
    monkeypatch.setenv("CRANE_JUDGE_MODEL", "a")
    assert key() == before  # the offline judge asks nobody
    asked = key(judge="endpoint")
    monkeypatch.setenv("CRANE_JUDGE_KEY", "secret")
    assert key(judge="endpoint") == asked
    monkeypatch.setenv("CRANE_JUDGE_MODEL", "b")
    assert key(judge="endpoint") != asked
    questions["zh"].write_text("??")
    assert key() != before
