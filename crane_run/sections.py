"""The sections of the study: one notebook each, in the order of their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, sha256
from crane_study import ROOT
from crane_study.fingerprints import code_fingerprint, imported_modules
from crane_study.profile import nearest

NOTEBOOKS = ROOT / "notebooks"
EXPECTED = ("claims.yaml", "published.csv", "tolerances.yaml")  # data files that sections read
CLAIMS = NOTEBOOKS.parent / "expected" / "claims.yaml"


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
        modules = sorted(set().union(*(imported_modules(plain_code(source)) for source in code)))
        return fingerprint(
            {
                "code": code,
                "text": self.sources("markdown"),
                "library": code_fingerprint(modules),
                "expected": {name: sha256(ROOT / "expected" / name) for name in EXPECTED},
                "profile": profile,
                "parameters": parameters,
                "outside": outside,
            }
        )


def plain_code(source: str) -> str:
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


def absent_sections(names: Iterable[str]) -> list[Section]:
    """Sections of the study of which none of the names, each beginning with a number, is one."""
    there = {name[:2] for name in names}
    return [section for section in all_sections() if section.number not in there]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its title, and the numbers of the sections that show and judge it."""

    title: str
    numbers: tuple[str, ...]


def all_claims() -> dict[str, Claim]:
    """The paper's claims by id, from ``expected/claims.yaml``; those without all of their sections are left out."""
    try:
        rules = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
        claims = {item["id"]: Claim(item["title"], (*item["sections"], rules["judged_in"])) for item in rules["claims"]}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CraneError(f"{CLAIMS}: cannot be read as the file of claims ({error!r})") from error
    there = {section.number for section in all_sections()}
    return {name: claim for name, claim in claims.items() if there.issuperset(claim.numbers)}


def choose_sections(only: list[str], first: str | None) -> list[Section]:
    """Sections by number, name or claim: those of `only`, or all from `first` on.

    Raises
    ------
    CraneError : a name is no section's and no claim's
    """
    sections = all_sections()
    known = {key: (section.number,) for section in sections for key in (section.number, section.name)}
    claims = {name: claim.numbers for name, claim in all_claims().items()}
    if first and first not in known:
        raise CraneError(f"unknown section {first!r}; {nearest(first, sorted(known))}")
    wanted: set[str] = set()
    for name in only:
        numbers = known.get(name) or claims.get(name.upper())
        if numbers is None:
            meant = claims if name.upper().startswith("C") else known
            raise CraneError(f"unknown section or claim {name!r}; {nearest(name, sorted(meant))}")
        wanted.update(numbers)
    if only:
        sections = [section for section in sections if section.number in wanted]
    if first:
        sections = [section for section in sections if section.number >= known[first][0]]
    if not sections:
        raise CraneError(f"no section is left: --only {','.join(only)} lies before --from {first}")
    return sections
