"""Output of a run: a live table on a terminal, one line per section elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crane_run.schedule import Board, Row
from crane_study.progress import TELL_SECONDS, can_redraw, seconds_text

_STYLES = {"running": "bold cyan", "done": "green", "reused": "green", "failed": "bold red", "interrupted": "yellow"}
_DETAILS_WIDTH = 90  # columns of a terminal that leave room for the sections' own progress
_LINE = 80  # characters of a section's own words, where there is no terminal
RESULTS = {
    "report.html": "what was reproduced, with every table and figure, in one file",
    "report.md": "the same as text",
    "claims.json": "the verdicts, for programs",
    "results.csv": "every result row",
    "manifest.json": "versions, commit, machine, seeds, seconds, memory, hashes",
    "tables": "each table as CSV, Markdown and LaTeX",
    "figures": "each figure as PNG and PDF, and what it shows in words",
    "notebooks": "the executed notebooks",
    "logs": "what each section printed",
}


def shown(path: Path) -> str:
    """Format a path: relative to the working folder where it is inside."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else path)


class Console:
    """Standard output of a run."""

    def __init__(self) -> None:
        # soft_wrap: a line that is logged to a file is not cut at 80 columns.
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        self._live = self._rich.is_terminal and can_redraw(sys.stdout)
        self._started = self._told = time.monotonic()

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line as it is."""
        self._rich.print(Text(text), style=style)
        sys.stdout.flush()  # a file or a pipe gets the line now

    def _say_when(self, text: str, style: str | None = None) -> None:
        """Print a line with the time of day."""
        self.say(f"[{time.strftime('%H:%M:%S')}] {text}", style)

    def plan(self, lines: list[tuple[str, str, str]]) -> None:
        """List sections: number, title, remark."""
        for number, title, remark in lines:
            self.say(f"{number}  {title}  [{remark}]")

    def start(self, profile: str, folder: Path, board: Board, *, disk: str = "") -> None:
        """Print what is going to be run, about how long that takes, and which sections are reused."""
        self._started = self._told = time.monotonic()
        about = f", {span}" if (span := _expected(board)) else ""
        self.say(f"CRANE, profile {profile}: {len(board.rows)} sections into {shown(folder)}{about}{disk}")
        for row in [] if self._live else board.rows:
            if row.state == "reused":
                took = seconds_text(row.seconds)
                self.say(f"{row.number}  {row.title}: reused, nothing changed (took {took} when it was made)")

    @contextmanager
    def watching(self, board: Board) -> Iterator[None]:
        """Show the table during the block, where there is a terminal; it stays there at the end."""
        if not self._live:
            yield
            return
        with Live(console=self._rich, get_renderable=lambda: self._table(board), redirect_stderr=False) as show:
            try:
                yield
            finally:
                show.refresh()

    def started(self, row: Row) -> None:
        """Print that a section starts."""
        if not self._live:
            self._say_when(f"{row.number}  {row.title}: starts")

    def tell(self, board: Board) -> None:
        """Print what is being done, how far it is, and the time left, if the last such line is half a minute ago."""
        if self._live or time.monotonic() - self._told < TELL_SECONDS:
            return
        self._told = time.monotonic()
        running = [row for row in board.rows if row.state == "running"]
        doing = [f"{row.number} {row.look().line[:_LINE] or 'at work'}" for row in running]
        ended = len(board.rows) - board.count("waiting", "running")
        self._say_when("; ".join([*doing, f"{ended} of {len(board.rows)} sections done{_end(board)}"]))

    def done(self, row: Row) -> None:
        """Print that a section is done."""
        if not self._live:
            self._say_when(f"{row.number}  {row.title}: done in {seconds_text(row.seconds)}")

    def failed(self, row: Row, error: str, *, notebook: Path, log: Path) -> None:
        """Print that a section failed, why, and where its notebook and log are."""
        took = seconds_text(row.seconds)
        self._say_when(f"{row.number}  {row.title}: FAILED after {took}: {error}", style="bold red")
        self.say(f"    its notebook: {shown(notebook)}")
        self.say(f"    its log: {shown(log)}")

    def finish(self, folder: Path, board: Board) -> None:
        """Print how the run went and where its results are."""
        count, failures = len(board.rows), board.count("failed")
        took = seconds_text(time.monotonic() - self._started)
        if failures:
            self.say(f"{failures} of {count} sections failed in {took}", style="bold red")
        else:
            self.say(f"All {count} sections done in {took}")
        paths = {name: path for name in RESULTS if (path := folder / name).exists()}
        texts = {name: f"{shown(path)}{'/' if path.is_dir() else ''}" for name, path in paths.items()}
        width = max(map(len, texts.values()), default=0)
        for name, text in texts.items():
            self.say(f"  {text:<{width}}  {RESULTS[name]}")

    def _table(self, board: Board) -> Group:
        """Draw the table as it is now."""
        table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
        table.add_column("", no_wrap=True)
        table.add_column("section", no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column("state", no_wrap=True, min_width=11)
        table.add_column("elapsed", no_wrap=True, justify="right", min_width=11)
        table.add_column("left", no_wrap=True, justify="right", min_width=11)
        details = self._rich.width >= _DETAILS_WIDTH
        if details:
            table.add_column("now", no_wrap=True, overflow="ellipsis", ratio=3)
        for row in board.rows:
            state = Text(row.state, _STYLES.get(row.state, "dim"))
            now = [Text(row.look().line if row.state == "running" else "", "dim")] if details else []
            table.add_row(row.number, Text(row.title), state, _elapsed(row), _left(row, board), *now)
        return Group(table, Text(f"elapsed {seconds_text(time.monotonic() - self._started)}{_end(board)}", "dim"))


def _end(board: Board) -> str:
    """Time until the end of the run and the time of day then, after a comma."""
    if not board.count("waiting", "running") or board.count("interrupted"):
        return ""
    if (left := board.left) is None:
        return ", time left not known"
    return f", about {seconds_text(left)} left (until {time.strftime('%H:%M', time.localtime(time.time() + left))})"


def _elapsed(row: Row) -> str:
    """Time that a section has run or took; for a reused one the time when it was made, in brackets."""
    text = "" if row.state == "waiting" else seconds_text(row.elapsed)
    return f"({text})" if row.state == "reused" else text


def _left(row: Row, board: Board) -> str:
    """Time that a section is expected to need yet."""
    is_known = row.state in ("waiting", "running") and row.work is not None
    left = board.seconds(row)
    return (f"about {seconds_text(left)}" if left else "soon") if is_known else ""


def _expected(board: Board) -> str:
    """Time that a run is expected to take on this machine, before its start; empty if that is not known."""
    left = board.left
    if not left:
        return ""
    if board.most < 1.2 * left:
        return f"about {seconds_text(left)} on this machine"
    return f"about {seconds_text(left)} on this machine, {seconds_text(board.most)} if no stage can be reused"
