"""What a section shows it also keeps: tables and figures under its number, with their captions."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from IPython.display import Markdown, display

from crane_lib.errors import CraneError
from crane_lib.files import locked, read_json, write_json
from crane_lib.output.description import first_sentence
from crane_lib.output.not_run import LOCK, forget_not_run, keep_not_run
from crane_lib.output.style import marked
from crane_lib.output.writing import write_table

CAPTIONS = "captions.json"
REHEARSAL = "REHEARSAL (random model, made-up data; not a result)"


def _is_rehearsal(folder: Path) -> bool:
    """Whether the run in a folder only rehearses, as its resolved profile says."""
    try:
        profile = yaml.safe_load((folder / "profile.yaml").read_text(encoding="utf-8"))
    except OSError:
        return False
    return isinstance(profile, dict) and bool(profile.get("rehearsal"))


class Publisher:
    """Tables and figures of one section, written below a run's folder and shown in the notebook.

    Made at the section's beginning: what the section said earlier that it could not run is forgotten.
    """

    def __init__(self, folder: Path, section: str) -> None:
        self.folder = folder
        self.section = section
        self._mark = REHEARSAL if _is_rehearsal(folder) else ""
        forget_not_run(folder, section)

    def _caption(self, name: str, caption: str) -> None:
        path = self.folder / CAPTIONS
        with locked(self.folder / LOCK):
            try:
                captions = read_json(path)
            except CraneError:
                captions = {}
            write_json(path, dict(sorted({**captions, name: caption}.items())))

    def not_run(self, what: str, reason: str) -> None:
        """Say why a part of the section is not run, and keep it for the reports."""
        keep_not_run(self.folder, self.section, what=what, reason=reason)
        print(f"NOT RUN: {reason}")

    def table(self, name: str, frame: pd.DataFrame, caption: str, *, digits: int | Mapping[str, int] = 3) -> None:
        """Write a table as CSV, Markdown and LaTeX, and show it."""
        stem = f"tables/{self.section}_{name}"
        caption = f"{self._mark}: {caption}" if self._mark else caption
        text = write_table(frame, self.folder / stem, caption=caption, digits=digits)
        self._caption(stem, text)
        display(Markdown((self.folder / f"{stem}.md").read_text(encoding="utf-8")))

    def figure(self, name: str, draw: Callable[..., str], data: Any, **options: Any) -> None:
        """Draw a figure as PNG and PDF, and show it with its caption; its text is what it shows, in words."""
        stem = f"figures/{self.section}_{name}"
        with marked(self._mark):
            caption = draw(data, self.folder / stem, **options)
        caption = f"{self._mark}: {caption}" if self._mark else caption
        self._caption(stem, caption)
        picture = (self.folder / f"{stem}.png").read_bytes()
        words = (self.folder / f"{stem}.txt").read_text(encoding="utf-8")
        both = {"image/png": b64encode(picture).decode("ascii"), "text/plain": words}
        display(both, raw=True, metadata={"image/png": {"alt": first_sentence(caption)}})
        display(Markdown(caption))
