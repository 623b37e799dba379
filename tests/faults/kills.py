"""Kill commands again and again, start them again, and compare their results with those of an undisturbed one.

    python -m tests.faults.kills                     # 120 kills of all scenarios, about an hour
    python -m tests.faults.kills judge --kills 10    # one of them

Scenarios: ``study`` is a whole run of a profile; ``passes`` and ``torchrun`` are the relevance pass of a small random
model in two processes, which the command starts or which torchrun starts; ``judge`` is a run with a judge's server.

A kill is SIGKILL, SIGTERM or Ctrl-C to the command, or SIGKILL or SIGTERM to a process that it has started or to the
judge's server: of the kind that had fewest kills so far. Its moment is the end of a stage (of each one in turn, until
all had a kill), of a shard or of a judging, or random. When a start has ended, all its processes must be gone. When one
has come to its end, the bytes of all stages and tables must be those of the undisturbed command, and the next round
begins in an empty folder. The random seed is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from crane_study import ROOT
from tests.faults import judge
from tests.small import TEXTS, write_lines, write_study

SHARES = {"study": 0.6, "passes": 0.15, "torchrun": 0.1, "judge": 0.15}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_SECONDS_TO_END, _SECONDS_OF_A_START = 60.0, 1800.0
_AT_RANDOM = 0.3  # share of kills at a random moment where there are others
_VOLATILE = {"stage.json", "00_models"}  # times and seconds
_CRANE = (sys.executable, "-m", "crane_run.cli")


@dataclass(frozen=True)
class Scenario:
    """A command that is killed, in a folder that `prepare` has filled."""

    command: Callable[[Path], list[str]]
    processes: tuple[str, ...]  # names of the command, of what it starts, of what these start, and so on
    pieces: str  # files of finished pieces, as a pattern
    most: int = 0  # pieces between two kills; 0: the end of each piece is a moment for a kill
    longest: float = 40.0  # seconds to a kill at a random moment
    prepare: Callable[[Path], object] = lambda folder: None
    judged: bool = False  # needs a judge's server
    part: bool = False  # an undisturbed run may have further results
    spared: tuple[str, ...] = ()  # processes that are not killed

    def finished(self, folder: Path) -> set[str]:
        """Return the names of the pieces that are finished."""
        while True:
            with suppress(FileNotFoundError):  # a folder that went while it was read
                return {str(path.relative_to(folder)).removesuffix("/stage.json") for path in folder.glob(self.pieces)}

    @contextmanager
    def place(self) -> Iterator[tuple[Path, judge.Server | None]]:
        """Give a folder to work in, which stays after an error, and a judge's server if it is needed."""
        folder = Path(tempfile.mkdtemp(prefix="crane-kills-"))
        self.prepare(folder)
        server = judge.Server() if self.judged else None
        try:
            yield folder, server
        finally:
            if server is not None:
                server.stop()
        shutil.rmtree(folder)


def results(folder: Path) -> dict[str, str]:
    """Return the hashes of all files of stages and tables whose bytes must not depend on when they were made."""
    names = ("stages/*/**/*", "tables/*.csv", "claims.json", "results.csv")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(path for name in names for path in folder.glob(f"*/{name}"))
        if path.is_file() and path.name not in _VOLATILE and path.stem not in _VOLATILE
    }


def differing(found: dict[str, str], reference: dict[str, str]) -> list[str]:
    """Return the names of files that only one of two results has, or that differ."""
    return sorted(name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name))


class Started:
    """A start of a scenario's command in a session of its own, with all processes that were ever seen beneath it."""

    def __init__(self, scenario: Scenario, folder: Path, server: judge.Server | None = None) -> None:
        self._names, self._log = scenario.processes, folder / "start.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                scenario.command(folder),
                cwd=ROOT,
                env=os.environ | (server.environment if server else {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )
        self._seen = {psutil.Process(self.process.pid): 0}  # how deep each one is beneath the command

    def look(self) -> dict[psutil.Process, str]:
        """Return the processes that run now, with their names, and remember them."""
        known = {process.pid: depth for process, depth in self._seen.items() if _runs(process)}
        for process in psutil.process_iter(["ppid"]):
            above = known.get(process.info["ppid"])
            if above is not None and process.pid not in known:
                self._seen[process] = known[process.pid] = above + 1
        names = {process: self._names[min(depth, len(self._names) - 1)] for process, depth in self._seen.items()}
        return {process: name for process, name in names.items() if _runs(process)}

    def ended(self) -> bool:
        """Return whether the command has ended."""
        return self.process.poll() is not None

    def wait(self, seconds: float) -> int:
        """Wait for the command's end and return its exit code."""
        deadline = time.monotonic() + seconds
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"it has not ended after {seconds:g} s:\n{self.said()}"
            self.look()
            time.sleep(0.1)
        return code

    def left(self) -> list[str]:
        """Return the processes that outlive the command, after a time to end."""
        deadline = time.monotonic() + _SECONDS_TO_END
        while (alive := self.look()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"{name} ({process.pid})" for process, name in alive.items()]

    def said(self) -> str:
        """Return the end of what it printed."""
        return self._log.read_text(errors="replace")[-4000:]


def _hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Killer:
    """Kills of a scenario: how many there will be, and those done, by kind."""

    scenario: Scenario
    kills: int
    dice: random.Random
    done: Counter[str] = field(default_factory=Counter)
    pending: set[str] = field(default_factory=set)  # pieces whose end had no kill yet
    starts: int = 0
    files: int = 0  # compared

    def survive(self, undisturbed: Path | None = None) -> None:
        """Kill commands until there were enough kills, and let the last one come to its end.

        `undisturbed` is the folder of an undisturbed command, which is run first if it is not given.

        Raises
        ------
        AssertionError : a process is left behind or does not end, a start fails undisturbed or without a clear reason,
            or a result differs
        """
        if undisturbed is None:
            with self.scenario.place() as (folder, server):
                started = Started(self.scenario, folder, server)
                assert started.wait(_SECONDS_OF_A_START) == 0, started.said()
                self.survive(folder)
            return
        reference = results(undisturbed)
        self.pending = set() if self.scenario.most else self.scenario.finished(undisturbed)
        while self.done.total() < self.kills:
            with self.scenario.place() as (folder, server):
                while self._start(folder, server):
                    pass
                found = results(folder)
                assert found, "no results"
                own = {name: value for name, value in reference.items() if name in found or not self.scenario.part}
                different = differing(found, own)
                assert not different, f"{len(different)} files differ: {different[:5]}"
                self.files += len(found)

    def _start(self, folder: Path, server: judge.Server | None) -> bool:
        """Start the command and kill it or its processes; returns whether it has to be started again."""
        self.starts += 1
        started = Started(self.scenario, folder, server)
        kinds: list[str] = []
        while self.done.total() < self.kills and (moment := self._moment(started, folder)):
            if kind := self._kill(started, server):
                kinds.append(kind)
                print(f"{self.done.total()} of {self.kills}: {kind}, {moment}", flush=True)
                if kind.endswith(self.scenario.processes[0]):
                    started.wait(_SECONDS_TO_END)
        code = started.wait(_SECONDS_OF_A_START)
        told = f"exit code {code} after {', '.join(kinds) or 'no kill'}"
        print(f"    {told}", flush=True)
        left = started.left()
        assert not left, f"{told}; left behind: {left}\n{started.said()}"
        assert code == 0 or kinds, f"{told}:\n{started.said()}"
        if code and all(kind.endswith(judge.NAME) for kind in kinds):
            clear = re.search("judge.* 127.0.0.1.* start again to continue", started.said())
            assert clear, f"{told}, without a clear reason:\n{started.said()}"
        if server is not None:
            server.start()
        return code != 0

    def _moment(self, started: Started, folder: Path) -> str:
        """Wait for the moment of a kill and name it; empty if the command ends before."""
        before, dice = self.scenario.finished(folder), self.dice
        at_random = dice.random() < _AT_RANDOM or not (self.scenario.most or self.pending - before)
        limit = time.monotonic() + self.scenario.longest * dice.random() ** 2
        count = dice.randint(1, self.scenario.most or 1)
        looked = 0.0
        while not started.ended():
            if time.monotonic() > looked + 0.2:
                started.look()
                looked = time.monotonic()
            if at_random and time.monotonic() > limit:
                return "at a random moment"
            new = self.scenario.finished(folder) - before
            wanted = new if self.scenario.most else new & self.pending
            if not at_random and len(wanted) >= count:
                self.pending -= wanted
                return f"at the end of {max(wanted)}" + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
            time.sleep(0.02)
        return ""

    def _kill(self, started: Started, server: judge.Server | None) -> str:
        """Send a signal of the kind that had fewest kills, and return the kind; empty if everything has ended."""
        running = started.look()
        if server is not None and server.process is not None and _runs(server.process):
            running[server.process] = judge.NAME
        command = self.scenario.processes[0]
        choices = [
            (f"{number.name} to {name}", process, number)
            for process, name in running.items()
            for number in SIGNALS
            if name not in self.scenario.spared and (number != signal.SIGINT or name == command)
        ]
        if started.ended() or not choices:
            return ""
        fewest = min(self.done[kind] for kind, _process, _number in choices)
        kind, process, number = self.dice.choice([each for each in choices if self.done[each[0]] == fewest])
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return ""
        self.done[kind] += 1
        if server is not None and process is server.process:
            server.stop()
            if self.dice.random() < 0.5:
                server.start()  # while the command tries again
        return kind


# ---- Scenarios


RUN = ("the run", "the server of sections", "a keeper of a section", "a section", "a process of a section")


def study(profile: str, *options: str) -> Scenario:
    """Run a profile."""
    return Scenario(
        lambda folder: [*_CRANE, "run", "--profile", profile, "--artifacts", str(folder), *options],
        RUN,
        pieces="*/stages/*/stage.json",
        part=bool(options),
    )


def _write_passes(folder: Path) -> None:
    texts = {language: [f"{number}. {text}" for number in range(20) for text in own] for language, own in TEXTS.items()}
    path = write_study(folder, texts=texts, questions=False, relevance_documents=600, perplexity_documents=4)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["relevance"] |= {"processes": 2}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def passes(*before: str, processes: tuple[str, ...]) -> Scenario:
    """Make the relevance statistics of a small model in two processes."""
    return Scenario(
        lambda folder: [
            *(before or _CRANE[:1]),
            *(*_CRANE[1:], "relevance", "--profile", str(folder / "small.yaml"), "--artifacts", str(folder)),
        ],
        processes,
        pieces="small/stages/.scratch/*/*/shard-*",
        most=8,
        prepare=_write_passes,
    )


def _write_judged(folder: Path) -> None:
    path = write_study(folder, chat=True, relevance_documents=10, perplexity_documents=4)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    asked = {language: [{"question": text} for text in texts[:12]] for language, texts in TEXTS.items()}
    files = {language: write_lines(folder / f"open.{language}.jsonl", rows).name for language, rows in asked.items()}
    values["open_ended"] = {"questions": files, "judge": "both", "concurrency": 2, "max_new_tokens": 6}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


_TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
SCENARIOS = {
    "study": lambda profile, options: study(profile, *options),
    "passes": lambda _profile, _options: passes(processes=("crane relevance", "torchrun", "a process of torchrun")),
    "torchrun": lambda _profile, _options: passes(*_TORCHRUN, processes=("torchrun", "a process of torchrun")),
    "judge": lambda _profile, _options: Scenario(
        lambda folder: [
            *(*_CRANE, "run", "--profile", str(folder / "small.yaml"), "--artifacts", str(folder), "--only", "05")
        ],
        RUN,
        pieces="judge_cache/*/*.json",
        most=150,
        prepare=_write_judged,
        judged=True,
        spared=RUN[1:],
    ),
}


def main() -> None:
    """Run the command that the head of this file shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], help="by default all of them")
    parser.add_argument("--kills", type=int, default=120, help="number of kills in all (default 120)")
    parser.add_argument("--profile", default="smoke", help="of the scenario study")
    parser.add_argument("--only", default="", help="sections of the scenario study, such as 01,03")
    parser.add_argument("--undisturbed", type=Path, help="artifacts of such a run, for the scenario study")
    parser.add_argument("--random-seed", type=int, default=0)
    given = parser.parse_args()
    chosen = given.scenario or list(SCENARIOS)
    options = ["--only", given.only] if given.only else []
    total, kills = sum(SHARES[name] for name in chosen), 0
    begun = time.monotonic()
    for name in chosen:
        started = time.monotonic()
        killer = Killer(
            SCENARIOS[name](given.profile, options),
            kills=round(given.kills * SHARES[name] / total),
            dice=random.Random(given.random_seed),
        )
        print(f"Scenario {name}: {killer.kills} kills (random seed {given.random_seed})", flush=True)
        killer.survive(given.undisturbed if name == "study" else None)
        for kind, count in sorted(killer.done.items()):
            print(f"{count:4d} {kind}")
        without = f"; ends without a kill: {', '.join(sorted(killer.pending))}" if killer.pending else ""
        print(
            f"{name}: {killer.done.total()} kills in {killer.starts} starts survived in "
            f"{time.monotonic() - started:.0f} s; no process left; {killer.files} files, all equal{without}"
        )
        kills += killer.done.total()
    print(f"{kills} kills survived in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    os.environ.setdefault("CRANE_PYTHON", sys.executable)
    main()
