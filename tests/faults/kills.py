"""Kill a study again and again, start it again, and compare its results with those of an undisturbed one.

    python -m tests.faults.kills --kills 100 --profile smoke

Every kill sends SIGKILL, SIGTERM or Ctrl-C to the runner, or SIGKILL or SIGTERM to one of the processes that it has
started: a section, the server of sections, a process of the relevance pass. The moment is random, or the end of a
stage. After each kill all processes must be gone; once a start comes to its end, the bytes of all stages and tables
must be those of the undisturbed run, and the next study begins in an empty folder. The seed is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from crane_study import ROOT

_WHOLE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_SECONDS_TO_END = 60.0
_VOLATILE = {"stage.json", "00_models"}  # times and seconds


class Started:
    """A start of `crane run` in a session of its own, with all processes that were ever seen beneath it."""

    def __init__(self, folder: Path, profile: str, *options: str) -> None:
        command = [sys.executable, "-m", "crane_run.cli", "run", "--profile", profile, "--artifacts", str(folder)]
        self._log = folder / "start.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._seen: dict[int, psutil.Process] = {}
        self.look()

    def look(self) -> list[psutil.Process]:
        """Return the processes beneath this start that run now, and remember them."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen |= {process.pid: process for process in found}
        return found

    def left(self) -> list[str]:
        """Return the command lines of processes that outlive the start, after a time to end."""
        deadline = time.monotonic() + _SECONDS_TO_END
        while time.monotonic() < deadline:
            alive = [process for process in self._seen.values() if _runs(process)]
            if not alive:
                return []
            time.sleep(0.2)
        return [" ".join(process.cmdline())[:160] for process in alive if _runs(process)]

    def said(self) -> str:
        """Return what it printed."""
        return self._log.read_text(errors="replace")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def results(run: Path) -> dict[str, str]:
    """Return the hashes of all files of stages and tables whose bytes must not depend on when they were made."""
    files = [*run.glob("stages/*/**/*"), *run.glob("tables/*.csv"), run / "claims.json", run / "results.csv"]
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.is_file() and path.name not in _VOLATILE and path.stem not in _VOLATILE
    }


def _finished_stages(run: Path) -> int:
    return sum(1 for _ in run.glob("stages/*/stage.json"))


def kill_once(started: Started, run: Path, *, dice: random.Random, longest: float) -> str:
    """Kill the runner or a process of it at a random moment or at the end of a stage; returns what was done.

    Returns nothing if the start came to its end before.
    """
    at_stage, before = dice.random() < 0.4, _finished_stages(run)
    moment = time.monotonic() + longest * dice.random() ** 2
    while time.monotonic() < moment and not (at_stage and _finished_stages(run) > before):
        started.look()
        if started.process.poll() is not None:
            return ""
        time.sleep(0.02)
    beneath = started.look()
    if beneath and dice.random() < 0.5:
        target, what = dice.choice(beneath), "a process"
        number = dice.choice(_WHOLE[:2])
    else:
        target, what, number = psutil.Process(started.process.pid), "the runner", dice.choice(_WHOLE)
    try:
        target.send_signal(number)
    except psutil.NoSuchProcess:
        return ""
    return f"{signal.Signals(number).name} to {what}{' at the end of a stage' if at_stage else ''}"


def survive(
    profile: str, reference: dict[str, str], *, kills: int, dice: random.Random, longest: float, options: list[str]
) -> Counter[str]:
    """Kill studies of a profile until there were enough kills, and finish the last one; returns the kinds of kills.

    Raises
    ------
    AssertionError : a process is left behind, a start fails that nobody disturbed, or a result differs
    """
    done: Counter[str] = Counter()
    while done.total() < kills:
        folder = Path(tempfile.mkdtemp(prefix="crane-kills-"))
        run = folder / profile
        finished = False
        while not finished:
            started = Started(folder, profile, *options)
            disturbed = ""
            if done.total() < kills:
                disturbed = kill_once(started, run, dice=dice, longest=longest)
                done[disturbed] += bool(disturbed)
            while started.process.poll() is None:
                started.look()
                time.sleep(0.05)
            left = started.left()
            assert not left, f"after {disturbed or 'no kill'}: left behind: {left}\n{started.said()}"
            finished = started.process.returncode == 0
            assert finished or disturbed, f"an undisturbed start failed:\n{started.said()}"
            print(
                f"{done.total()} of {kills}: {disturbed or 'undisturbed'}, exit {started.process.returncode}",
                flush=True,
            )
        found = results(run)
        differing = [name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name)]
        assert not differing, f"{len(differing)} files differ: {sorted(differing)[:5]}"
        shutil.rmtree(folder)
    return done


def main() -> None:
    """Run the command that the head of this file shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default 100)")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--random-seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=40.0, help="longest time from a start to its kill, seconds")
    parser.add_argument("--reference", type=Path, help="an undisturbed run; made first if it is not given")
    parser.add_argument("options", nargs="*", help="further options of crane run, after --")
    given = parser.parse_args()
    reference = given.reference
    if reference is None:
        folder = Path(tempfile.mkdtemp(prefix="crane-undisturbed-"))
        started = Started(folder, given.profile, *given.options)
        if started.process.wait():
            raise SystemExit(started.said())
        reference = folder / given.profile
    begun = time.monotonic()
    done = survive(
        given.profile,
        results(reference),
        kills=given.kills,
        dice=random.Random(given.random_seed),
        longest=given.longest,
        options=given.options,
    )
    for kind, count in done.most_common():
        print(f"{count:4d} {kind}")
    print(f"{done.total()} kills survived in {time.monotonic() - begun:.0f} s (random seed {given.random_seed})")


if __name__ == "__main__":
    os.environ.setdefault("CRANE_PYTHON", sys.executable)
    main()
