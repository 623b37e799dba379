"""The numbers of a run beside those of a reference: which differ, where and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crane_lib.output.reproduction import Reproduction
from crane_lib.pipeline.reference import Cell, Reference, Table
from crane_lib.profile import TOLD

_TOLD = (*TOLD, "device")  # settings of a profile that numbers do not follow from


@dataclass(frozen=True)
class Difference:
    """A number, verdict, row or table that is not as in the reference."""

    table: str
    row: str = ""
    column: str = ""
    value: Cell = None
    reference: Cell = None
    tolerance: float | None = None
    remark: str = ""  # what is wrong, where it is not a number beyond its tolerance

    @property
    def excess(self) -> float:
        """How many times the tolerance the difference is; infinite where none is allowed or a number is missing."""
        if not isinstance(self.value, int | float) or not isinstance(self.reference, int | float) or not self.tolerance:
            return math.inf
        return abs(self.value - self.reference) / self.tolerance

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.table, self.row, self.column) if part)
        if self.remark:
            return f"{place}: {self.remark}"
        if isinstance(self.value, int | float) and isinstance(self.reference, int | float):
            off = f"off by {abs(self.value - self.reference):.4g}, tolerance {self.tolerance:.4g}"
            return f"{place}: {self.value}, reference {self.reference} ({off})"
        return f"{place}: {_shown(self.value)}, reference {_shown(self.reference)}"


def _shown(value: Cell) -> str:
    return "missing" if value is None else str(value)


@dataclass
class Comparison:
    """What comparing found: differences that count, those told for information, and how many numbers were equal.

    `could_fail` counts the numbers that would have been out of tolerance had the run reported 0 for them: the power of
    the comparison. A number that is 0 in the reference cannot be among them.
    """

    differences: list[Difference] = field(default_factory=list)
    information: list[Difference] = field(default_factory=list)
    numbers: int = 0
    equal: int = 0  # to the last digit kept
    could_fail: int = 0
    zeros: int = 0  # in the reference
    tables: int = 0
    verdicts: int = 0
    equal_verdicts: int = 0


def compare(
    reference: Reference,
    *,
    tables: Mapping[str, Table],
    verdicts: Mapping[str, str],
    profile: Mapping[str, Any],
    lacking: Mapping[str, str],
    rules: Reproduction,
    exact: bool = False,
) -> Comparison:
    """Hold a run's numbers against a reference's.

    Parameters
    ----------
    tables, verdicts, profile : the run's (`crane_lib.pipeline.reference`)
    lacking : section number -> why it has no outputs; its tables are then not called missing one by one
    exact : allow no difference in the digits that are kept
    """
    found = Comparison()
    found.differences += _settings(profile, reference.profile)
    for number, why in lacking.items():
        found.differences.append(Difference(f"section {number}", remark=why))
    for name, expected in reference.tables.items():
        if name in tables:
            found.tables += 1
            _compare_table(name, tables[name], expected, found, rules=rules, exact=exact)
        elif name.removeprefix("tables/")[:2] not in lacking:
            found.differences.append(Difference(name, remark="is missing; the reference has it"))
    for name in tables:
        if name not in reference.tables:
            found.information.append(Difference(name, remark="is new; the reference does not have it"))
    told = reference.profile.get("name") in rules.verdicts_as_information and not exact
    _compare_verdicts(verdicts, reference.verdicts, found, told=told)
    found.differences.sort(key=lambda one: -one.excess)  # stable: what has no size stays first, in order
    return found


def _settings(ours: Mapping[str, Any], theirs: Mapping[str, Any], place: str = "") -> list[Difference]:
    """Settings of the profile that are not the reference's."""
    found = []
    for name in sorted({*ours, *theirs}):
        where = f"{place}.{name}" if place else name
        one, other = ours.get(name), theirs.get(name)
        if where in _TOLD or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _settings(one, other, where)
        else:
            found.append(Difference("profile", column=where, remark=f"is {one!r}, the reference has {other!r}"))
    return found


def _compare_table(
    name: str, ours: Table, theirs: Table, found: Comparison, *, rules: Reproduction, exact: bool
) -> None:
    if ours.key != theirs.key:
        remark = f"rows are named by {', '.join(ours.key)}; in the reference by {', '.join(theirs.key)}"
        found.differences.append(Difference(name, remark=remark))
        return
    missing = [column for column in theirs.columns if column not in ours.columns]
    found.differences += [Difference(name, column=column, remark="the column is missing") for column in missing]
    new = [column for column in ours.columns if column not in theirs.columns]
    found.information += [Difference(name, column=column, remark="the column is new") for column in new]
    for row in ours.rows:
        if row not in theirs.rows:
            found.differences.append(Difference(name, row, remark="the row is not in the reference"))
    for row, cells in theirs.rows.items():
        if row not in ours.rows:
            found.differences.append(Difference(name, row, remark="the row is missing"))
            continue
        values = dict(zip(ours.columns, ours.rows[row], strict=True))
        metric = theirs.metric(row)
        for column, cell in zip(theirs.columns, cells, strict=True):
            if column in values:
                place = Difference(name, row, column, values[column], cell)
                reach = rules.widening * theirs.half_width(row, column)
                _compare_cell(place, found, metric=metric, reach=reach, rules=rules, exact=exact)


def _compare_cell(
    place: Difference, found: Comparison, *, metric: str, reach: float, rules: Reproduction, exact: bool
) -> None:
    value, reference = place.value, place.reference
    where = {"table": place.table, "column": place.column, "metric": metric}
    if isinstance(value, str) or isinstance(reference, str):
        if value != reference and rules.compares(**where, number=False):
            (found.differences if exact else found.information).append(place)
        return
    if value is None and reference is None:
        return
    rule = rules.rule(**where)
    if not rule.compared:
        return
    found.numbers += 1
    if value is None or reference is None:
        found.differences.append(place)
        return
    tolerance = 0.0 if exact else rule.tolerance(reference, reach=reach)
    found.equal += value == reference
    found.zeros += reference == 0
    found.could_fail += abs(reference) > tolerance
    if abs(value - reference) > tolerance + 1e-12 * abs(reference):
        found.differences.append(Difference(place.table, place.row, place.column, value, reference, tolerance))


def _compare_verdicts(ours: Mapping[str, str], theirs: Mapping[str, str], found: Comparison, *, told: bool) -> None:
    """Verdicts count as they are, unless the profile's are `told` only; one that is missing counts always."""
    for case, verdict in theirs.items():
        found.verdicts += 1
        if case not in ours:
            found.differences.append(Difference("claims.json", case, "verdict", None, verdict))
        elif ours[case] != verdict:
            place = Difference("claims.json", case, "verdict", ours[case], verdict)
            (found.information if told else found.differences).append(place)
        else:
            found.equal_verdicts += 1
