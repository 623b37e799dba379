import subprocess
import sys

import pytest

from crane_lib.parallel import ORPHANED
from crane_study import ROOT

PROGRAM = """
import sys, time
from crane_lib import parallel
parallel.INTERVAL = 0.05
parallel.end_with(*map(int, sys.argv[1:]))
print("watching", flush=True)
time.sleep(60)
"""


@pytest.fixture
def sleepers():
    """Two processes that live until they are killed; nobody takes note of their end, so they stay in the table."""
    processes = [subprocess.Popen(["sleep", "60"]) for _number in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def watching(*processes):
    command = [sys.executable, "-c", PROGRAM, *map(str, processes)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_ends_with_any_that_it_watches(sleepers, which):
    with watching(*(process.pid for process in sleepers)) as process:
        assert process.stdout.readline() == "watching\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        sleepers[which].kill()
        assert process.wait(30) == ORPHANED


def test_a_process_that_is_gone_already(sleepers):
    gone = subprocess.Popen(["true"])
    gone.wait()
    with watching(sleepers[0].pid, gone.pid) as process:
        assert process.wait(30) == ORPHANED
        assert process.stdout.read() == ""
