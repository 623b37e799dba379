import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from crane_lib.errors import CraneError
from crane_run.notebook import Execution, check_parameters, known_parameters
from crane_study import ROOT
from tests.run.notebooks import is_alive, names, outputs, wait_until, write_notebook

START = "@ start: 03  Masks"


def begin(path, parameters=None, **variables):
    """Start to execute a notebook into the folder `out`, with a log in its own folder."""
    folder, heading = path.parent, START.partition(": ")[2]
    variables = {"CRANE_PROGRESS_FILE": str(folder / ".progress"), **variables}
    output, log = folder / "out" / path.name, folder / "log.txt"
    return Execution(path, output, parameters or {}, variables=variables, log=log, heading=heading)


def execute(path, parameters=None, **variables):
    """Execute a notebook; returns its error."""
    execution = begin(path, parameters, **variables)
    while execution.is_alive():
        time.sleep(0.05)
    error = execution.result()
    execution.close("failed" if error else "done")
    assert 20 < execution.peak_memory_mib < 1000
    return error


def log_lines(folder):
    """Lines of the log without the times of day and without those on injected cells."""
    lines = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"^\[[-\d]+ [:\d]+\] (.*?)-*$", r"@ \1", line) for line in lines]


def test_the_parameters_of_a_notebook(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb")
    assert known_parameters(path) == ["profile", "artifacts", "value"]
    check_parameters(path, {"value": 3})
    for name, right in (("valeu", r"did you mean 'value'\?"), ("zzz", "known: profile, artifacts, value")):
        with pytest.raises(CraneError, match=rf"a\.ipynb: unknown parameter '{name}'; {right}"):
            check_parameters(path, {name: 1})


def test_a_notebook_that_fails_and_then_does_not(tmp_path):
    cell = (
        "import os, crane_lib\n"
        "print('value', value, crane_lib.__name__, os.environ['CRANE_SECTION'], os.getcwd())\n"
        "from crane_lib.errors import CraneError\n"
        "if value == 2:\n"
        "    raise CraneError('the set is of another model; make it again')\n"
        "if value == 3:\n"
        "    raise ValueError('first line\\nsecond line')"
    )
    path = write_notebook(tmp_path / "a.ipynb", cell, "print('after')")
    out = tmp_path / "out"

    assert execute(path, {"value": 2}, CRANE_SECTION="07") == "cell 4: the set is of another model; make it again"
    assert names(out) == ["a.failed.ipynb"]
    printed = f"value 2 crane_lib 07 {ROOT}\n"
    assert outputs(out / "a.failed.ipynb") == printed
    assert log_lines(tmp_path)[-2:] == ["error: the set is of another model; make it again", "@ end: failed"]

    assert execute(path, {"value": 7}, CRANE_SECTION="07") is None
    assert names(out) == ["a.ipynb"]
    printed = printed.replace("2", "7", 1)
    assert outputs(out / "a.ipynb") == f"{printed}after\n"
    assert names(tmp_path) == ["a.ipynb", "log.txt", "out"]
    lines = log_lines(tmp_path)
    assert lines[0] == START
    assert [line for line in lines if "Cell 1" not in line and "Cell 2" not in line and "Cell 3" not in line] == [
        START,
        *("@ Executing Cell 4", printed.strip(), "@ Ending Cell 4"),
        *("@ Executing Cell 5", "after", "@ Ending Cell 5"),
        "@ end: done",
    ]

    assert execute(path, {"value": 3}, CRANE_SECTION="07") == "cell 4: ValueError: first line"
    assert names(out) == ["a.failed.ipynb", "a.ipynb"]
    log = (tmp_path / "log.txt").read_text()
    assert "first line\nsecond line\n" in log
    assert "\x1b" not in log


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("import os; os.write(2, b'last words'); os._exit(9)", "its kernel died"),
        ("import os; os.kill(os.getppid(), 9)", "its process ended (SIGKILL); was there too little memory?"),
    ],
)
def test_a_kernel_or_a_process_that_dies(tmp_path, cell, message):
    path = write_notebook(tmp_path / "a.ipynb", cell)
    before = names(ROOT)
    assert execute(path).startswith(message)
    assert names(tmp_path / "out") in ([], ["a.failed.ipynb"])
    assert names(ROOT) == before  # its sockets lay elsewhere


def test_an_unfinished_log_is_kept_above_the_next_start(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb")
    for number, close in enumerate(({"finished": False}, {}, {"finished": False})):
        execution = begin(path)
        execution.stop()
        assert execution.last_line().endswith("start: 03  Masks")
        execution.close(f"end {number}", **close)
        expected = [[START, "@ end 0"], [START, "@ end 0", "", START, "@ end: end 1"], [START, "@ end 2"]]
        assert log_lines(tmp_path) == expected[number]
    assert names(tmp_path / "out") == []


RUNNER = """
import pathlib, sys, time
from tests.run.test_notebook import begin
execution = begin(pathlib.Path(sys.argv[1]))
while execution.is_alive():
    time.sleep(0.1)
execution.result()
print("ended", flush=True)
"""


@pytest.mark.parametrize("victim", ["stop", "notebook", "runner", "notebook and runner"])
def test_no_process_is_left_whatever_is_killed(tmp_path, victim):
    """With SIGKILL, which no process can answer; the kernel has a child in a session of its own."""
    pids = tmp_path / "pids"
    cell = (
        "import ipykernel, json, os, subprocess, time\n"
        "sockets = os.path.dirname(json.load(open(ipykernel.get_connection_file()))['ip'])\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(pids)!r} + '.partial', 'w').write(f'{{os.getppid()}} {{os.getpid()}} {{child.pid}} {{sockets}}')\n"
        f"os.rename({str(pids)!r} + '.partial', {str(pids)!r})\n"
        "time.sleep(600)"
    )
    path = write_notebook(tmp_path / "a.ipynb", cell)
    if victim == "stop":
        execution = begin(path)
    else:
        runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    wait_until(pids.is_file, seconds=120)
    *processes, sockets = pids.read_text().split()
    notebook, kernel, child = map(int, processes)
    assert Path(sockets).is_dir()
    assert all(map(is_alive, (notebook, kernel, child)))
    if victim == "stop":
        execution.stop()
        execution.close("interrupted", finished=False)
    for process in ([notebook] if "notebook" in victim else []) + ([runner.pid] if "runner" in victim else []):
        os.kill(process, signal.SIGKILL)
    expected = {notebook, kernel} if victim == "notebook and runner" else {notebook, kernel, child}
    wait_until(lambda: not any(map(is_alive, expected)), seconds=10)
    if victim == "notebook":
        assert runner.communicate(timeout=60)[0] == b"ended\n"
    elif victim == "notebook and runner":
        psutil.Process(child).kill()  # nobody is left who could: the study's own children look at their parent
    assert Path(sockets).exists() == ("notebook" in victim)
    if victim != "stop":
        runner.kill()
        runner.communicate()
