"""The sections of the study: their notebooks, and what ``sections.yaml`` declares of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, sha256
from crane_study import ROOT
from crane_study.fingerprints import code_fingerprint, imported_modules
from crane_study.paper import read_rules
from crane_study.profile import nearest

NOTEBOOKS = ROOT / "notebooks"
_CLAIMS = ROOT / "expected" / "claims.yaml"
DECLARED = Path(__file__).with_name("sections.yaml")


class Declaration(BaseModel):
    """Entry of a section in ``sections.yaml``, where the keys are explained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A numbered notebook, its entry in ``sections.yaml``, and the numbers of all sections that it waits for."""

    path: Path
    declared: Declaration = field(default_factory=Declaration)
    after: frozenset[str] = frozenset()

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
        lines = (line for text in self.sources("markdown") for line in text.splitlines())
        return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), self.name)

    def key(self, profile: dict[str, Any], parameters: dict[str, Any], outside: dict[str, str]) -> str:
        """Hash of all that determines the outputs: cells, imported code, declared data, profile, versions."""
        code = self.sources("code")
        parts = {
            "code": code,
            "text": self.sources("markdown"),
            "library": code_fingerprint(imported_modules("\n".join(map(_plain_code, code)))),
            "data": {name: sha256(ROOT / name) for name in self.declared.data},
        }
        return fingerprint(parts | {"profile": profile, "parameters": parameters, "outside": outside})


def _plain_code(source: str) -> str:
    """Code of a cell without the lines that only IPython understands."""
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


def all_sections() -> list[Section]:
    """Every section, in the order of the numbers; a declaration that is wrong or does not match is a CraneError."""
    declared, titles = _declarations(), _claim_titles()
    notebooks = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not notebooks:
        raise CraneError(f"{NOTEBOOKS}: has no notebooks; run from a clone of the repository")
    if missing := sorted(declared.keys() ^ notebooks.keys()):
        where = f"has no notebook in {NOTEBOOKS}" if missing[0] in declared else f"is not declared in {DECLARED}"
        raise CraneError(f"section {missing[0]} {where}")
    data = {name for item in declared.values() for name in item.data if (ROOT / name).is_file()}
    for number, item in declared.items():
        given = {"section": (item.needs, set(declared)), "claim": (item.claims, set(titles)), "file": (item.data, data)}
        for kind, (names, known) in given.items():
            if unknown := [name for name in names if name not in known]:
                raise CraneError(f"{DECLARED}: section {number}: unknown {kind} {unknown[0]!r}")
    after: dict[str, frozenset[str]] = {}
    try:
        for number in TopologicalSorter({number: item.needs for number, item in declared.items()}).static_order():
            after[number] = frozenset(declared[number].needs).union(*(after[need] for need in declared[number].needs))
    except CycleError as error:
        raise CraneError(f"{DECLARED}: sections need one another: {' -> '.join(error.args[1])}") from error
    return [Section(notebooks[number], declared[number], after[number]) for number in sorted(declared)]


def _declarations() -> dict[str, Declaration]:
    try:
        return TypeAdapter(dict[str, Declaration]).validate_python(read_rules(DECLARED))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CraneError(f"{DECLARED}: {place}: {first['msg']} (seen: {str(first['input'])[:60]!r})") from error


def _claim_titles() -> dict[str, str]:
    """Titles of the paper's claims by id."""
    try:
        return {item["id"]: item["title"] for item in read_rules(_CLAIMS)["claims"]}
    except (KeyError, TypeError) as error:
        raise CraneError(f"{_CLAIMS}: is not a file of claims ({error!r})") from error


def absent_sections(names: Iterable[str]) -> list[Section]:
    """Sections of the study that are not among the names, each of which begins with a number."""
    there = {name[:2] for name in names}
    return [section for section in all_sections() if section.number not in there]


def all_claims() -> dict[str, tuple[str, list[str]]]:
    """The paper's claims by id: title, and numbers of the sections that show and judge it."""
    declared = {section.number: section.declared.claims for section in all_sections()}
    return {
        name: (title, [number for number, claims in declared.items() if name in claims])
        for name, title in _claim_titles().items()
    }


def choose_sections(only: list[str], first: str | None) -> list[Section]:
    """Choose sections by number, name or claim: those of `only`, or all from `first` on."""
    sections = all_sections()
    known = {key: [section.number] for section in sections for key in (section.number, section.name)}
    claims = {name.upper(): numbers for name, (_title, numbers) in all_claims().items()}
    if first and first not in known:
        raise CraneError(f"unknown section {first!r}; {nearest(first, sorted(known))}")
    wanted: set[str] = set()
    for name in only:
        numbers = known.get(name) or claims.get(name.upper())
        if numbers is None:
            meant = claims if name.upper().startswith("C") else known
            raise CraneError(f"unknown section or claim {name!r}; {nearest(name, sorted(meant))}")
        wanted.update(numbers)
    start = known[first][0] if first else ""
    chosen = [item for item in sections if item.number >= start and (item.number in wanted or not only)]
    if not chosen:
        raise CraneError(f"no section is left: --only {','.join(only)} lies before --from {first}")
    return chosen
