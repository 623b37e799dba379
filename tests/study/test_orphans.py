"""Processes that end with another one."""

import subprocess
import sys

import pytest

from crane_study import ROOT
from crane_study.orphans import ORPHANED

PROGRAM = """
import sys, time
from crane_study import orphans
orphans.INTERVAL = 0.05
orphans.end_with(*map(int, sys.argv[1:]))
print("watching", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("which", [0, 1, "gone already"])
def test_a_process_ends_with_any_that_it_watches(which):
    # Nobody waits for the two that sleep, so that they become zombies when they are killed.
    watched = [subprocess.Popen(["sleep", "60"]) for _number in range(2)]
    if which == "gone already":
        watched[1].kill()
        watched[1].wait()
    command = [sys.executable, "-c", PROGRAM, *(str(process.pid) for process in watched)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        if which != "gone already":
            assert process.stdout.readline() == "watching\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            watched[which].kill()
        assert process.wait(120) == ORPHANED
        assert process.stdout.read() == ""
    for process in watched:
        process.kill()
        process.wait()
