"""How far a number of a run may lie from the same number of a reference run: ``expected/tolerances.yaml`` says why."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crane_lib.errors import CraneError

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
    interval: bool = False  # whether the row's own interval is added, if it has one for the column

    @model_validator(mode="after")
    def _names_a_place(self) -> Self:
        if self.tables == ("*",) and self.columns == ("*",):
            raise ValueError("names neither tables nor columns: it would hide what no rule was written for")
        return self

    def covers(self, *, table: str, column: str, metric: str) -> bool:
        """Whether the rule is for this place."""
        wanted = ((self.tables, table), (self.columns, column), (self.metrics, metric))
        return all(any(fnmatchcase(name, pattern) for pattern in patterns) for patterns, name in wanted)

    def tolerance(self, reference: float, *, reach: float = 0.0) -> float:
        """Largest difference from this reference value that is none.

        Parameters
        ----------
        reach : half the width of the row's interval, widened; counts where the rule says `interval`
        """
        return self.absolute + self.relative * abs(reference) + self.interval * reach


class Reproduction(_Strict):
    """How two runs of one profile are compared."""

    verdicts_as_information: tuple[str, ...]  # profiles whose verdicts may differ
    identity: dict[str, tuple[str, ...]]  # table, or * for all others -> columns that name a row
    widening: Annotated[float, Field(ge=1)]  # of intervals
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    def of_profile(self, name: str) -> Reproduction:
        """Only the rules for a profile."""
        kept = tuple(rule for rule in self.rules if any(fnmatchcase(name, pattern) for pattern in rule.profiles))
        return self.model_copy(update={"rules": kept})

    def find(self, *, table: str, column: str, metric: str) -> Rule | None:
        """The first rule for a place, None where there is none."""
        found = (rule for rule in self.rules if rule.covers(table=table, column=column, metric=metric))
        return next(found, None)

    def rule(self, *, table: str, column: str, metric: str) -> Rule:
        """The first rule for a place.

        Raises
        ------
        CraneError : no rule is for it
        """
        found = self.find(table=table, column=column, metric=metric)
        if found is None:
            where = f"{table}, column {column!r}" + (f", metric {metric!r}" if metric else "")
            raise CraneError(
                f"expected/tolerances.yaml: no rule of `reproduction` is for {where}; add one that says how far two "
                "runs may differ there, or that it is not compared"
            )
        return found

    def compares(self, *, table: str, column: str, metric: str, number: bool) -> bool:
        """Whether a place is compared; a text without a rule is.

        Raises
        ------
        CraneError : it holds a number and no rule is for it
        """
        if number:
            return self.rule(table=table, column=column, metric=metric).compared
        rule = self.find(table=table, column=column, metric=metric)
        return rule is None or rule.compared

    def names_row(self, *, table: str, column: str) -> bool:
        """Whether a column says which row it is, not what was found; a table may have a list of its own.

        A column that would, but is not compared by a rule, does not.
        """
        rule = self.find(table=table, column=column, metric="")
        return column in self.identity.get(table, self.identity["*"]) and (rule is None or rule.compared)
