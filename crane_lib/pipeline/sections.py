"""The sections of the study: one notebook each, in the order of their numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint
from crane_lib.pipeline.code import code_fingerprint, imported_modules
from crane_lib.profile import nearest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@dataclass(frozen=True)
class Section:
    """A numbered notebook."""

    path: Path

    @property
    def number(self) -> str:
        """Two digits, the section's name on the command line."""
        return self.path.name[:2]

    @property
    def name(self) -> str:
        """Name of the notebook without its ending."""
        return self.path.stem

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The notebook's cells."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))["cells"]
        except (ValueError, KeyError, TypeError) as error:
            raise CraneError(f"{self.path}: is not a notebook ({error})") from error

    def sources(self, kind: str) -> list[str]:
        """Text of the cells of a kind (``code`` or ``markdown``)."""
        return ["".join(cell["source"]) for cell in self.cells if cell["cell_type"] == kind]

    @property
    def title(self) -> str:
        """The first heading, without its marks."""
        for text in self.sources("markdown"):
            for line in text.splitlines():
                if line.startswith("#"):
                    return line.lstrip("# ").strip()
        return self.name

    def key(self, profile: dict[str, Any], parameters: dict[str, Any], outside: dict[str, str]) -> str:
        """Hash of all that determines the section's outputs: its cells, the code they import, profile, versions."""
        code = self.sources("code")
        modules = sorted(set().union(*(imported_modules(_plain(source)) for source in code)))
        return fingerprint(
            {
                "code": code,
                "text": self.sources("markdown"),
                "library": code_fingerprint(modules),
                "profile": profile,
                "parameters": parameters,
                "outside": outside,
            }
        )


def _plain(source: str) -> str:
    """A cell's code without the lines that only IPython understands."""
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


def all_sections() -> list[Section]:
    """Every section, in order.

    Raises
    ------
    CraneError : the notebooks are not there (the package was installed without the repository)
    """
    found = sorted(path for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise CraneError(f"{NOTEBOOKS}: has no notebooks; run from a clone of the repository")
    return [Section(path) for path in found]


def choose_sections(only: list[str], first: str | None) -> list[Section]:
    """Sections by number or name: those of `only`, or all from `first` on.

    Raises
    ------
    CraneError : a name is no section's
    """
    sections = all_sections()
    known = {key: section for section in sections for key in (section.number, section.name)}
    for name in [*only, *([first] if first else [])]:
        if name not in known:
            raise CraneError(f"unknown section {name!r}; {nearest(name, sorted(known))}")
    if only:
        wanted = {known[name] for name in only}
        sections = [section for section in sections if section in wanted]
    if first:
        sections = [section for section in sections if section.number >= known[first].number]
    if not sections:
        raise CraneError(f"no section is left: --only {','.join(only)} lies before --from {first}")
    return sections
