"""How far a number of a run may lie from the same number of a reference run: ``expected/tolerances.yaml`` says why."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NotNegative = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Strict):
    """A tolerance and the profiles, tables, columns and metrics it is for, with ``*`` and ``?`` as in file names."""

    why: str
    profiles: tuple[str, ...] = ("*",)
    tables: tuple[str, ...] = ("*",)
    columns: tuple[str, ...] = ("*",)
    metrics: tuple[str, ...] = ("*",)
    compared: bool = True
    absolute: NotNegative = 0.0
    relative: NotNegative = 0.0

    def covers(self, *, table: str, column: str, metric: str) -> bool:
        """Whether the rule is for this place."""
        wanted = ((self.tables, table), (self.columns, column), (self.metrics, metric))
        return all(any(fnmatchcase(name, pattern) for pattern in patterns) for patterns, name in wanted)

    def tolerance(self, reference: float) -> float:
        """Largest difference from this reference value that is none."""
        return self.absolute + self.relative * abs(reference)


class Reproduction(_Strict):
    """How two runs of one profile are compared."""

    verdicts_as_information: tuple[str, ...]  # profiles whose verdicts may differ
    identity: dict[str, tuple[str, ...]]  # table, or * for all others -> columns that name a row
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    def of_profile(self, name: str) -> Reproduction:
        """Only the rules for a profile."""
        kept = tuple(rule for rule in self.rules if any(fnmatchcase(name, pattern) for pattern in rule.profiles))
        return self.model_copy(update={"rules": kept})

    def rule(self, *, table: str, column: str, metric: str) -> Rule:
        """The first rule for a place; the last rule of the file is for all."""
        found = (rule for rule in self.rules if rule.covers(table=table, column=column, metric=metric))
        return next(found, self.rules[-1])

    def names_row(self, *, table: str, column: str) -> bool:
        """Whether a column says which row it is, not what was found; a table may have a list of its own."""
        return column in self.identity.get(table, self.identity["*"])
