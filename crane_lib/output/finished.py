"""What lies in a run's folder when its sections are through: what both reports are written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.output.claims import load_rules, not_run, read_claims
from crane_lib.output.not_run import read_not_run
from crane_lib.pipeline.sections import absent_sections
from crane_lib.profile import REHEARSAL_SUFFIX

Claims = Sequence[Mapping[str, Any]]
_ENDINGS = {"tables": ".md", "figures": ".png"}  # of the file that must be there


@dataclass(frozen=True)
class Finished:
    """Manifest, captions and verdicts of a run; verdicts are None where no claim was judged."""

    folder: Path
    manifest: dict[str, Any]
    captions: dict[str, str]
    verdicts: Claims | None

    @classmethod
    def read(cls, folder: Path) -> Finished:
        """Read what is there; what is missing stays empty.

        Raises
        ------
        CraneError : a file is there but cannot be read
        """
        claims = folder / "claims.json"
        verdicts = read_claims(claims) if claims.is_file() else None
        return cls(folder, _object(folder / "manifest.json"), _object(folder / "captions.json"), verdicts)

    @property
    def profile(self) -> str:
        """Name of the profile."""
        return str(self.manifest.get("profile", {}).get("name") or self.folder.name)

    @property
    def rehearsal(self) -> bool:
        """Whether the run only rehearsed."""
        return bool(self.manifest.get("profile", {}).get("rehearsal"))

    def sections(self) -> dict[str, dict[str, Any]]:
        """Number -> record of every section that ran or left a table or figure."""
        records = {record["section"][:2]: record for record in self.manifest.get("sections", [])}
        numbers = sorted({*records, *(name.partition("/")[2][:2] for name in self.captions)})
        return {number: records.get(number, {}) for number in numbers}

    def command(self, number: str) -> str:
        """The command that makes a section's outputs."""
        profile = self.profile.removesuffix(REHEARSAL_SUFFIX) + " --rehearse" if self.rehearsal else self.profile
        return f"./run_all.sh --profile {profile} --only {number}"

    def outputs(self, number: str) -> list[str]:
        """Names of a section's tables and figures that are there, tables first, each kind by name."""
        found = []
        for name in self.captions:
            kind, _, stem = name.partition("/")
            if kind in _ENDINGS and stem.startswith(f"{number}_") and self.path(name, _ENDINGS[kind]).is_file():
                found.append(name)
        return sorted(found, key=lambda name: (not name.startswith("tables/"), name))

    def path(self, name: str, ending: str) -> Path:
        """One of the files of a table or figure."""
        return self.folder / f"{name}{ending}"

    def missing(self) -> list[str]:
        """What was not run, and why: a sentence each."""
        records = self.manifest.get("sections", [])
        lines = [
            f"Section {record['section']}: {record.get('error') or 'not done'}"
            for record in records
            if record.get("status") != "done"
        ]
        lines += [
            f"Section {section.name}: was never run; `{self.command(section.number)}` runs it."
            for section in absent_sections(record["section"] for record in records)
        ]
        lines += [
            f"Section {number}, {what}: {reason}."
            for number, entries in read_not_run(self.folder).items()
            for what, reason in entries.items()
        ]
        if self.verdicts is None:
            lines.append("No claim was judged: the section on the claims has not run.")
        else:
            lines += not_run(self.verdicts)
        return lines + [f"{text} (no section of this study does it)." for text in load_rules().get("not_covered", [])]


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, an empty one where there is no such file."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CraneError(f"{path}: expected an object, saw {type(value).__name__}; delete it and run again")
    return value


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
