"""Damage every file of a finished run, one at a time, and see that it is noticed before a number is read from it.

    python -m tests.faults.damage artifacts/smoke --other artifacts/mini

A file is cut to half, gets one bit flipped, is emptied, or becomes the file of the same name of another run; its times
stay. For each damage the check of `crane verify` and the decision of the next start (what it would make again) are
asked in this process. With ``--starts N`` the next start is done N times, each with a damaged file of every kind, after
which all bytes must be as before. The seed is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from crane_lib import files
from crane_run import runner, verify
from crane_run.manifest import NAME as MANIFEST
from crane_run.manifest import REPORTS
from crane_run.runner import Run
from crane_run.sections import all_sections
from crane_study import ROOT
from crane_study.profile import Profile, load_profile
from crane_study.store import RECORD, complete
from tests.faults.kills import differing, results

DAMAGES = ("cut", "flipped", "emptied", "of another run")
UNREAD = ("logs", "lock")  # kinds of files from which nothing is read
AGAIN = "profile.yaml"  # is written at every start


class Remembered:
    """Hashes of files, read again only for the one that is damaged now."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self.damaged: Path | None = None

    def __call__(self, path: str | os.PathLike[str]) -> str:
        if self.damaged is not None and os.path.samefile(path, self.damaged):
            return files.sha256(path)
        name = os.path.realpath(path)
        if name not in self._known:
            self._known[name] = files.sha256(path)
        return self._known[name]


def kind_of(name: str) -> str:
    """Kind of a file of a run, by its path."""
    first, _, rest = name.partition("/")
    if name.endswith(RECORD):
        return "stage record"
    if first == "stages":
        return f"stage {Path(name).suffix}"
    if name in REPORTS:
        return "report"
    return first if rest else Path(name).suffix.removeprefix(".") or first.removeprefix(".")


def damages(path: Path, other: Path | None, *, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield the kinds of damage that change a file, each with the content of the damaged file."""
    whole = path.read_bytes()
    place = dice.randrange(max(1, len(whole)))
    flipped = bytearray(whole)
    flipped[place : place + 1] = bytes([byte ^ 1 << dice.randrange(8) for byte in whole[place : place + 1]])
    foreign = other.read_bytes() if other is not None and other.is_file() else whole
    for kind, content in zip(DAMAGES, (whole[: len(whole) // 2], bytes(flipped), b"", foreign), strict=True):
        if content != whole:
            yield kind, content


@contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    """Replace the content of a file for a while, as bad storage does: its times stay."""
    whole, about = path.read_bytes(), path.stat()

    def write(data: bytes) -> None:
        path.write_bytes(data)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    write(content)
    try:
        yield
    finally:
        write(whole)


class Written(Exception):
    """Raised where the next start would write reports and manifest."""


class Checks:
    """Checks of a run, as `crane verify` and the next start do them."""

    def __init__(self, folder: Path, profile: Profile | None = None) -> None:
        self.folder, self.hashes = folder, Remembered()
        self.run = Run(profile or load_profile(str(folder / "profile.yaml")), folder, all_sections())
        self.keys = {section.number: self.run.key(section) for section in self.run.sections}

    def named(self, name: str) -> bool:
        """Return whether `crane verify` names a file."""
        with mock.patch.object(verify, "sha256", self.hashes):
            problems = verify.verify(self.folder, against=verify.NO_REFERENCE).problems
        return any(name == MANIFEST or name in problem for problem in problems)

    def again(self) -> set[str]:
        """Sections that the next start would run; ``reports`` where it would only write reports and manifest."""
        with mock.patch.object(runner, "sha256", self.hashes):
            found = {n for n, key in self.keys.items() if not self.run.is_current(_section(self.run, n), key)}
        if found:
            return found
        with mock.patch.object(runner, "describe_run", side_effect=Written):
            try:
                runner.finish(self.run, again=False)
            except Written:
                return {"reports"}
        return set()

    def stops(self, name: str) -> bool:
        """Return whether a file of a stage keeps the stage from being read."""
        stage = self.folder / "stages" / Path(name).parts[1]
        return complete(stage, None) is None


def _section(run: Run, number: str) -> runner.Section:
    return next(section for section in run.sections if section.number == number)


def try_file(checks: Checks, name: str, other: Path | None, *, dice: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Damage a file in every way; yields the kind of damage, and who noticed it: verify, start, reader."""
    path = checks.folder / name
    for kind, content in damages(path, other, dice=dice):
        with damaged(path, content):
            checks.hashes.damaged = path
            noticed = ["verify"] if checks.named(name) else []
            noticed += ["start"] if name == AGAIN or checks.again() else []
            noticed += ["reader"] if name.startswith("stages/") and checks.stops(name) else []
        checks.hashes.damaged = None
        yield kind, noticed


def is_safe(name: str, noticed: list[str]) -> bool:
    """Return whether a damage was noticed by verify, and by a start or by whoever reads the file."""
    return kind_of(name) in UNREAD or ("verify" in noticed and len(noticed) > 1)


def run_files(folder: Path) -> list[str]:
    """Return the names of all files of a run."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def survive_starts(folder: Path, *, starts: int, dice: random.Random, say: Callable[[str], None] = print) -> None:
    """Damage one file of every kind and start the run again; its results must be as before, and verified.

    Raises
    ------
    AssertionError : a start fails, or a result differs
    """
    reference = results(folder.parent)
    profile = load_profile(str(folder / "profile.yaml")).name
    for number in range(starts):
        by_kind: dict[str, list[str]] = {}
        for name in run_files(folder):
            by_kind.setdefault(kind_of(name), []).append(name)
        for names in (names for kind, names in by_kind.items() if kind not in UNREAD):
            path = folder / dice.choice(names)
            options = [
                one for one in damages(path, None, dice=dice) if one[0] != "flipped" or "stages" not in path.parts
            ]
            if options:  # a bit that flips in a stage which nothing reads stays there until something does
                kind, content = dice.choice(options)
                path.write_bytes(content)
                say(f"{number}: {kind} {path.relative_to(folder)}")
        command = [
            sys.executable,
            "-m",
            "crane_run.cli",
            "run",
            "--profile",
            profile,
            "--artifacts",
            str(folder.parent),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        differ = differing(results(folder.parent), reference)
        assert not differ, f"{len(differ)} files differ: {differ[:5]}"
        assert verify.verify(folder, against=verify.NO_REFERENCE).problems == []


def main() -> None:
    """Run the command that the head of this file shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, which this code made")
    parser.add_argument("--other", type=Path, help="another run, whose files replace those of the same name")
    parser.add_argument("--files", type=int, default=0, help="damage so many files only, drawn at random (default all)")
    parser.add_argument("--starts", type=int, default=0, help="starts with a damaged file of every kind (default none)")
    parser.add_argument("--random-seed", type=int, default=0)
    given = parser.parse_args()
    dice, begun = random.Random(given.random_seed), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="crane-damage-")) / given.run.resolve().name
    shutil.copytree(given.run, folder)
    checks = Checks(folder)
    if left := checks.again():
        raise SystemExit(f"{given.run}: is not up to date ({', '.join(sorted(left))}); finish it with this code first")
    names = run_files(folder)
    names = sorted(dice.sample(names, given.files)) if given.files else names
    seen, silent = Counter[tuple[str, str]](), []
    for name in names:
        for kind, noticed in try_file(checks, name, given.other and given.other / name, dice=dice):
            seen[kind_of(name), kind] += 1
            seen[kind_of(name), "+".join(noticed) or "nobody"] += 1
            if not is_safe(name, noticed):
                silent.append(f"{name}: {kind}, noticed by {' and '.join(noticed) or 'nobody'}")
    by = sorted({column for _kind, column in seen} - set(DAMAGES))
    print("\t".join(["kind of file", *DAMAGES, *by]))
    for file in sorted({file for file, _column in seen}):
        print("\t".join([file, *(str(seen[file, column]) for column in (*DAMAGES, *by))]))
    total = sum(count for (_file, column), count in seen.items() if column in DAMAGES)
    print(f"{len(names)} files, {total} damages, {len(silent)} not noticed in time", *silent, sep="\n")
    print(f"{time.monotonic() - begun:.0f} s (random seed {given.random_seed})")
    if given.starts:
        begun = time.monotonic()
        survive_starts(folder, starts=given.starts, dice=dice)
        print(f"{given.starts} starts mended what was damaged in {time.monotonic() - begun:.0f} s")
    shutil.rmtree(folder.parent)
    raise SystemExit(bool(silent))


if __name__ == "__main__":
    os.environ.setdefault("CRANE_PYTHON", sys.executable)
    main()
