import os
import re
import signal
import subprocess
import sys
import time

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
    assert execution.peak_memory_mib < 1000
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
    ("cell", "how"), [("os._exit(9)", "exit code 9"), ("os.kill(os.getpid(), 9)", "SIGKILL"), ("os.abort()", "SIGABRT")]
)
def test_a_process_that_dies(tmp_path, cell, how):
    path = write_notebook(tmp_path / "a.ipynb", "print('first')", f"import os; os.write(2, b'last words\\n'); {cell}")
    assert execute(path) == f"its process ended ({how}); was there too little memory?"
    assert outputs(tmp_path / "out" / "a.failed.ipynb") == "first\n"
    assert log_lines(tmp_path)[-2:] == ["last words", "@ end: failed"]


def test_a_notebook_that_cannot_be_saved_is_not_done(tmp_path):
    (tmp_path / "out" / ".a.partial.ipynb").mkdir(parents=True)
    path = write_notebook(tmp_path / "a.ipynb", "print(1)")
    assert execute(path) == "its process ended (exit code 1); was there too little memory?"
    assert "IsADirectoryError" in (tmp_path / "log.txt").read_text()


def test_a_section_computes_with_its_own_threads_in_its_own_process(tmp_path):
    """Whatever another section did: all are forks of one server, which itself runs no thread of Python."""
    cell = (
        "import os, sys, threading, torch\n"
        "from threadpoolctl import threadpool_info\n"
        "pools = {pool['num_threads'] for pool in threadpool_info()}\n"
        "print(torch.get_num_threads(), *pools, threading.active_count())\n"
        "print(len(os.listdir('/proc/self/task')), 'crane_study.study' in sys.modules, torch.initial_seed())\n"
        "torch.manual_seed(value)"
    )
    path = write_notebook(tmp_path / "a.ipynb", cell)
    seeds = set()
    for threads in ("1", "3", "1"):
        assert execute(path, {"value": int(threads)}, OMP_NUM_THREADS=threads) is None
        *said, tasks, loaded, seed = outputs(tmp_path / "out" / "a.ipynb").split()
        assert (said, loaded) == ([threads, threads, "1"], "False")
        assert tasks == "1" or threads == "3"
        seeds.add(seed)
    assert len(seeds) == 1


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
from crane_run import server
from tests.run.test_notebook import begin
server.IMPORTED = ()
execution = begin(pathlib.Path(sys.argv[1]))
while execution.is_alive():
    time.sleep(0.1)
execution.result()
print("ended", flush=True)
"""


@pytest.mark.parametrize(
    "victim", ["stop", "section", "server", "runner", "section and runner", "keeper", "keeper and runner"]
)
def test_no_process_is_left_whatever_is_killed(tmp_path, victim):
    """With SIGKILL, which no process can answer; the section has a child in a session of its own, and a fork."""
    pids = tmp_path / "pids"
    cell = (
        "import os, pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True).pid\n"
        "if (fork := os.fork()) == 0:\n"
        "    time.sleep(600)\n"
        "keeper = os.getppid()\n"
        "server = pathlib.Path('/proc/' + str(keeper) + '/stat').read_text().rpartition(')')[2].split()[1]\n"
        f"open({str(pids)!r} + '.partial', 'w').write(f'{{os.getpid()}} {{keeper}} {{server}} {{child}} {{fork}}')\n"
        f"os.rename({str(pids)!r} + '.partial', {str(pids)!r})\n"
        "time.sleep(600)"
    )
    path = write_notebook(tmp_path / "a.ipynb", cell)
    if victim == "stop":
        execution = begin(path)
    else:
        runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    wait_until(lambda: pids.is_file(), seconds=120)
    section, keeper, server, child, fork = map(int, pids.read_text().split())
    if victim == "stop":
        started = time.monotonic()
        execution.stop()
        assert time.monotonic() - started < 5
        execution.close("interrupted", finished=False)
    else:
        numbers = {"section": section, "keeper": keeper, "server": server, "runner": runner.pid}
        for process in [number for name, number in numbers.items() if name in victim]:
            os.kill(process, signal.SIGKILL)
    if victim == "section":
        assert runner.communicate(timeout=60)[0] == b"ended\n"
    elif victim == "server":  # whose sections go on
        time.sleep(1)
        assert all(map(is_alive, (section, keeper, child, fork)))
        runner.kill()
    expected = {section, keeper, child, fork, *({server} if victim != "stop" else ())}
    if victim == "keeper and runner":  # nobody is left who could end what the section has started
        expected -= {child, fork}
        for process in (child, fork):
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, expected)), seconds=30)
    if victim != "stop":
        runner.communicate()
