"""Processes that work together or watch one another."""

import subprocess
import sys

import pytest

from crane_lib import parallel
from crane_lib.errors import CraneError
from crane_lib.parallel import ORPHANED, OtherProcessEnded, barrier, processes, rank, share, world
from crane_study import ROOT


def test_one_process_is_the_first_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes():
        assert (rank(), world()) == (0, 1)
        barrier()
        assert share([3]) == [3]


def test_processes_without_torchrun_are_told_of_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
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


@pytest.fixture
def sleepers():
    """Two processes that live until they are killed; nobody waits for them, so they become zombies."""
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
