"""One start of the study: which sections, where, what is known of them from earlier starts, and records of this one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json, write_text
from crane_lib.output.not_run import forget_not_run
from crane_lib.pipeline.estimate import Times
from crane_lib.pipeline.machine import granted_memory
from crane_lib.pipeline.notebook import known_parameters
from crane_lib.pipeline.order import waits_for
from crane_lib.pipeline.sections import Section, all_sections
from crane_lib.pipeline.store import RECORD, library_versions
from crane_lib.pipeline.threads import all_threads
from crane_lib.profile import TOLD, Profile
from crane_lib.profile_options import EmbeddedSource, LocalSource

MOST_JOBS = 4  # sections that do not wait for one another
_MEMORY_A_JOB = 2_000_000_000  # bytes; a section of an embedded model takes less than half of it
_KEPT = ("tables", "figures")


@dataclass
class Run:
    """One start of the study: a profile, its folder, the sections asked for, and how many of them work at once."""

    profile: Profile
    folder: Path
    sections: list[Section]
    parameters: dict[str, Any] = field(default_factory=dict)
    jobs: int = 1

    @property
    def threads(self) -> int:
        """Threads of a section: its share when `jobs` of them work at once, also where fewer are asked for."""
        return max(1, all_threads() // self.jobs)

    @cached_property
    def times(self) -> Times:
        """What is known of the sections' times on this machine."""
        return Times(self.folder.parent, self.profile, threads=self.threads)

    def expected(self, section: Section) -> float | None:
        """Seconds a section is likely to take if nothing can be reused, None if nobody knows."""
        return self.times.expected(section.number)

    def record_path(self, section: Section) -> Path:
        """File that says how a section went last."""
        return self.folder / "sections" / f"{section.name}.json"

    def record(self, section: Section) -> dict[str, Any] | None:
        """How a section went last, None if it never ran."""
        try:
            record = read_json(self.record_path(section))
        except (CraneError, NotADirectoryError):
            return None
        return record if isinstance(record, dict) else None

    def log_path(self, section: Section) -> Path:
        """File of what a section's cells print."""
        return self.folder / "logs" / f"{section.name}.log"

    def executed_path(self, section: Section) -> Path:
        """The section's executed notebook."""
        return self.folder / "notebooks" / f"{section.name}.ipynb"

    def key(self, section: Section) -> str:
        """Key of what a section would make now."""
        known = known_parameters(section.path) if self.parameters else []
        given = {name: value for name, value in self.parameters.items() if name in known}
        outside = {**library_versions(), **_outside(self.profile)}
        profile = {name: value for name, value in self.profile.resolved().items() if name not in TOLD}
        return section.key(profile, given, outside)

    def unchanged(self, section: Section, key: str) -> bool:
        """Whether the section's outputs are there and were made under this key."""
        last = self.record(section)
        return (
            last is not None
            and last.get("status") == "done"
            and last.get("key") == key
            and all((self.folder / name).is_file() for name in last["outputs"])
            and not self._lacks_scores(section)
        )

    def _lacks_scores(self, section: Section) -> bool:
        """Whether a section may have gone without a judge's scores: one that it reads has yet to get them."""
        if self.profile.open_ended.judge == "offline":
            return False
        before = waits_for(all_sections())[section.number]
        records = [self.record(other) for other in all_sections() if other.number in before]
        return any(record is None or record.get("status") != "done" for record in records)

    def mark_running(self, section: Section) -> float:
        """Distrust a section's outputs from here on: they are being replaced, and the run may be interrupted.

        Returns
        -------
        time of day by the clock that stamps the folder's files, which on a file server is not this machine's
        """
        last = self.record(section)
        if last is not None:
            write_json(self.record_path(section), {**last, "status": "running"})
        marker = self.folder / f".start-{section.number}"
        write_text(marker, section.name)
        since = marker.stat().st_mtime
        marker.unlink()
        return since

    def finish(
        self,
        section: Section,
        key: str,
        *,
        since: float,
        seconds: float,
        threads: int,
        error: str | None,
        peak_memory_mib: float | None = None,
    ) -> None:
        """Keep a record of how a section went, and take away outputs that are not this start's.

        Parameters
        ----------
        since : when it started, as `mark_running` said
        """
        if error is not None:  # made under another key; the report must not show them as today's
            for name in (self.record(section) or {}).get("outputs", []):
                (self.folder / name).unlink(missing_ok=True)
            forget_not_run(self.folder, section.number)
        record = {
            "section": section.name,
            "title": section.title,
            "status": "failed" if error else "done",
            "error": error,
            "key": key,
            "seconds": round(seconds, 2),
            "threads": threads,
            "jobs": self.jobs,
            "peak_memory_mib": peak_memory_mib,
            "outputs": [] if error else self._outputs(section, since),
        }
        write_json(self.record_path(section), record)
        if error is None:
            self.times.keep(section.number, self._cold_seconds(section, since, seconds))

    def _outputs(self, section: Section, since: float) -> list[str]:
        """Files that a section made, relative to the run's folder; those that it no longer makes go."""
        outputs = [str(self.executed_path(section).relative_to(self.folder))]
        for kind in _KEPT:
            for path in sorted((self.folder / kind).glob(f"{section.number}_*")):
                if path.stat().st_mtime < since - 1:
                    path.unlink()
                else:
                    outputs.append(str(path.relative_to(self.folder)))
        # Files for all of the run lie beside the folders; they are of the section whose code names them.
        code = "\n".join(section.sources("code"))
        return outputs + sorted(
            path.name
            for path in self.folder.glob("*.*")
            if path.is_file() and f'"{path.name}"' in code and path.stat().st_mtime >= since - 1
        )

    def _cold_seconds(self, section: Section, since: float, seconds: float) -> float:
        """Seconds that a section takes when none of its stages can be reused: its own, and those of all its stages."""
        for path in (self.folder / "stages").glob(f"*/{RECORD}"):
            stage = read_json(path)
            if stage.get("section") == section.number and path.stat().st_mtime < since:
                seconds += stage["seconds"]
        return seconds


def fitting_jobs(profile: Profile) -> int:
    """How many sections at once suit a profile and this machine.

    Small models gain little from a second core, so a section has one where models are small. Larger ones use all
    cores by themselves, and several of them may not fit into the memory.
    """
    if not (isinstance(profile.source, EmbeddedSource) or profile.rehearsal):
        return 1
    return max(1, min(MOST_JOBS, all_threads(), granted_memory() // _MEMORY_A_JOB))


def _outside(profile: Profile) -> dict[str, str]:
    """State of what a profile names from outside: sizes and times of files, cheap to read, and the judge."""
    named = [*(profile.open_ended.questions or {}).values(), *filter(None, [profile.paper.lape_list])]
    asked = _state(named)
    if profile.open_ended.judge != "offline":
        asked |= {name: os.environ.get(name, "") for name in ("CRANE_JUDGE_URL", "CRANE_JUDGE_MODEL")}
    if not isinstance(profile.source, LocalSource):
        return asked
    source = profile.source
    paths = [*source.texts.values(), *(source.questions or {}).values()]
    for folder in (source.base_model, source.chat_model):
        if folder is not None and folder.is_dir():
            paths += sorted(path for path in folder.iterdir() if path.is_file())
    return asked | _state(paths)


def _state(paths: Iterable[Path]) -> dict[str, str]:
    return {str(path): f"{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in paths if path.is_file()}
