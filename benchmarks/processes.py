"""Two processes on two cores against one process held to one core.

This file is also what each process runs, alone or under torchrun: `python -m benchmarks.processes FOLDER`. It times
the pass itself and leaves the seconds in a file; the start of interpreter and model is outside.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measurement import ROOT, Measurement, ratio, skipped, times
from benchmarks.workloads import Sizes, Workload, random_documents, random_model
from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_lib.parallel import barrier, processes, rank, world
from crane_lib.relevance import Statistics, document_relevance, stream_statistics

ONE, TWO = "1 process", "2 processes"
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@dataclass(frozen=True)
class _Run:
    seconds: float  # of the pass
    command_seconds: float
    statistics: Statistics


def measure_processes(sizes: Sizes) -> list[Measurement]:
    """Seconds of the pass and of the whole command, each process held to a core of its own; shards go to files."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return skipped("processes", "two cores are needed that processes can be held to")
    rounds = [
        {ONE: _run((), sizes.processes), TWO: _run(_TORCHRUN, sizes.processes)} for _ in range(sizes.process_rounds)
    ]
    passes = [{name: run.seconds for name, run in runs.items()} for runs in rounds]
    commands = [{f"{name}, whole command": run.command_seconds for name, run in runs.items()} for runs in rounds]
    one, two = (rounds[0][name].statistics.moments for name in (ONE, TWO))
    apart = max(float(((one[site].m4 - two[site].m4).abs() / one[site].m4.abs().max()).max()) for site in one)
    return [
        *times("processes", passes),
        *times("processes", commands),
        ratio("processes", passes, ONE, TWO, goal=">= 1.7"),
        Measurement("processes", "fourth moments, largest difference", apart, "relative", goal="<= 1e-12", exact=True),
    ]


def _run(launcher: tuple[str, ...], workload: Workload) -> _Run:
    """Start the processes with a folder of their own, and read what they leave there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "workload.json", dataclasses.asdict(workload))
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "benchmarks.processes", name],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise CraneError(f"processes: a process failed: {done.stderr.strip()[-1000:]}")
        found = read_json(folder / "pass.json")
        if found["processes"] != (2 if launcher else 1):
            raise CraneError(f"processes: {found['processes']} worked together; is WORLD_SIZE set in the environment?")
        return _Run(found["seconds"], seconds, Statistics.load(folder / "statistics.safetensors"))


def _work(folder: Path) -> None:
    """One process's share of the pass, on one core; the first process notes the time that all of them took."""
    torch.set_num_threads(1)
    workload = Workload(**read_json(folder / "workload.json"))
    with processes():
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank()]})
        model, documents = random_model(workload), random_documents(workload)
        document_relevance(model, torch.from_numpy(documents[0]).long()[None])  # kernels are chosen, memory is there
        barrier()
        start = time.perf_counter()
        statistics = stream_statistics(
            model,
            documents,
            token_budget=workload.token_budget,
            folder=folder / "shards",
            model_fingerprint="random weights",
        )
        barrier()
        if rank() == 0:
            write_json(folder / "pass.json", {"seconds": time.perf_counter() - start, "processes": world()})
            statistics.save(folder / "statistics.safetensors")


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
