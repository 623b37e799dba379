"""What a run says on the terminal: one line a section, with elapsed and expected time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console as RichConsole
from rich.live import Live
from rich.text import Text

from crane_lib.progress import read_progress


def seconds_text(seconds: float) -> str:
    """Seconds as a person says them: ``48 s``, ``3 min 05 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


class Console:
    """Lines of a run; on a terminal the running section's line is alive, elsewhere each line is printed once."""

    def __init__(self) -> None:
        # soft_wrap: a line that is logged to a file is not cut at 80 columns.
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        self._live = self._rich.is_terminal and sys.stdout.isatty()

    def _print(self, text: str, style: str | None = None) -> None:
        self._rich.print(Text(text), style=style)

    def start(self, profile: str, folder: Path, sections: list[tuple[str, str, float | None]]) -> None:
        """Say what is going to be run and about how long that takes."""
        known = [seconds for _number, _title, seconds in sections if seconds]
        about = f", about {seconds_text(sum(known))} if nothing can be reused" if len(known) == len(sections) else ""
        self._print(f"CRANE, profile {profile}: {len(sections)} sections into {folder}{about}")

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self._print(text)

    def plan(self, lines: list[tuple[str, str, str]]) -> None:
        """List sections: number, title, remark."""
        for number, title, remark in lines:
            self._print(f"{number}  {title}  [{remark}]")

    def reused(self, number: str, title: str, seconds: float) -> None:
        """Say that a section's results are used again."""
        self._print(f"{number}  {title}: reused, nothing changed (took {seconds_text(seconds)} when it was made)")

    def done(self, number: str, title: str, seconds: float) -> None:
        """Say that a section is done."""
        self._print(f"{number}  {title}: done in {seconds_text(seconds)}")

    def failed(self, number: str, title: str, seconds: float, error: str, notebook: Path) -> None:
        """Say that a section failed, why, and where its notebook is."""
        self._print(f"{number}  {title}: FAILED after {seconds_text(seconds)}: {error}", style="bold red")
        self._print(f"    its notebook: {notebook}")

    @contextmanager
    def running(self, number: str, title: str, expected: float | None, progress_file: Path) -> Iterator[None]:
        """Show that a section is at work, how long it has been and what it says of itself."""
        about = f", expected {seconds_text(expected)}" if expected else ""
        if not self._live:
            self._print(f"{number}  {title}: running{about}")
            yield
            return
        stop = threading.Event()
        with Live(console=self._rich, refresh_per_second=4, transient=True) as live:

            def refresh() -> None:
                elapsed = 0.0
                while not stop.wait(0.25):
                    elapsed += 0.25
                    live.update(
                        Text(f"{number}  {title}: {seconds_text(elapsed)}{about}  {read_progress(progress_file)}")
                    )

            thread = threading.Thread(target=refresh, daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()

    def finish(self, folder: Path, seconds: float, count: int, failures: Sequence[object]) -> None:
        """Say how the run went and where its results are."""
        if failures:
            self._print(f"{len(failures)} of {count} sections failed in {seconds_text(seconds)}", style="bold red")
        else:
            self._print(f"All {count} sections done in {seconds_text(seconds)}")
        for name in ("report.html", "report.md", "claims.json", "results.csv", "manifest.json"):
            if (folder / name).is_file():
                self._print(f"  {folder / name}")
        for name in ("tables", "figures", "notebooks"):
            if (folder / name).is_dir():
                self._print(f"  {folder / name}/")
