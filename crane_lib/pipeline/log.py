"""A section's log: what its cells printed, readable while it works, after a kill, and years later."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import TracebackType

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x07")
_END = "end: "
BAR_SECONDS = 15.0  # a progress bar leaves a line this often, and its last state


class SectionLog:
    """Text file of one section, written line by line as they come.

    A start writes the file anew, except that what a start left behind which did not come to its end stays above.
    Progress bars, which write over themselves, leave a line now and then instead of thousands.

    Parameters
    ----------
    path : file to write
    heading : of this start, such as ``03  Perplexity``
    """

    def __init__(self, path: Path, *, heading: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _unfinished(path)
        self._stream = path.open("a" if kept else "w", encoding="utf-8", errors="replace", buffering=1)
        self._line = ""  # what has come since the last end of a line
        self._bar_written = time.monotonic()
        self.last = ""
        self.note(f"start: {heading}", gap=bool(kept))

    def __enter__(self) -> SectionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Descriptor, for what a kernel's process itself writes (a crash, say)."""
        return self._stream.fileno()

    def note(self, text: str, *, gap: bool = False) -> None:
        """A line of the runner's own, with the time of day."""
        self._break()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stream.write(f"{chr(10) if gap else ''}[{stamp}] {text}\n")

    def write(self, text: str) -> None:
        """Output of a cell, in pieces of any size."""
        # A carriage return before an end of line is part of it; any other one says that the line is written anew.
        pieces = re.split(r"(\r?\n|\r)", _CONTROL.sub("", text))
        for piece in pieces:
            if piece.endswith("\n"):
                self._break(blank=True)
            elif piece == "\r":
                self._write_over()
            else:
                self._line += piece

    def flush(self) -> None:
        """Nothing to do: lines are written as they come."""

    def end(self, text: str) -> None:
        """How the section ended; a log with this line is finished."""
        self.note(_END + text)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._break()
        self._stream.close()

    def _break(self, *, blank: bool = False) -> None:
        """End the line that has come so far; an empty one is written only if the cells meant it."""
        if self._line.strip() or blank:
            self._stream.write(self._line.rstrip() + "\n")
            self.last = self._line.strip() or self.last
        self._line = ""

    def _write_over(self) -> None:
        """The line is about to be written anew: keep this state if none was kept for a while."""
        self.last = self._line.strip() or self.last
        if self._line.strip() and time.monotonic() - self._bar_written >= BAR_SECONDS:
            self._bar_written = time.monotonic()
            self._break()
        self._line = ""


def _unfinished(path: Path) -> bool:
    """Whether a log is there that lacks its end."""
    if not path.is_file():
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return bool(lines) and f"] {_END}" not in lines[-1]
