"""Processes that work together or watch one another."""

import subprocess
import sys

import pytest

from crane_lib import parallel
from crane_lib.errors import CraneError
from crane_lib.parallel import ORPHANED, OtherProcessEnded, barrier, processes, rank, share, world
from crane_study import ROOT


def test_one_process_is_the_first_of_one_and_several_need_torchrun(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with processes():
        assert (rank(), world()) == (0, 1)
        barrier()
        assert share([3]) == [3]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CraneError, match=r"cannot be reached \(.*RANK.*\); start it with torchrun"), processes():
        pass


def test_waiting_for_a_process_that_has_ended(monkeypatch):
    def closed():
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4242")

    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(parallel.distributed, "barrier", closed)
    with pytest.raises(OtherProcessEnded, match="another process of this run has ended"):
        barrier()


# --- orphans ---

PROGRAM = """
import sys, time
from crane_lib import parallel
parallel.INTERVAL = 0.05
parallel.end_with(*map(int, sys.argv[1:]))
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
