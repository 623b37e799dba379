"""Tolerances of published values and of reference runs; ``expected/tolerances.yaml`` gives the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crane_lib.errors import CraneError
from crane_lib.specificity import langspec, langspec_values
from crane_study import ROOT
from crane_study.paper import read_rules

TOLERANCES = ROOT / "expected" / "tolerances.yaml"
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Scores = Mapping[str, float]  # by language
_COVERED = 0.95  # share of the draws of LangSpec-F


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ToleranceRule(_Strict):
    """A tolerance for some profiles, tables, columns and metrics, with ``*`` and ``?`` as in file names."""

    why: str
    profiles: tuple[str, ...] = ("*",)
    tables: tuple[str, ...] = ("*",)
    columns: tuple[str, ...] = ("*",)
    metrics: tuple[str, ...] = ("*",)
    compared: bool = True
    absolute: NotNegative = 0.0
    relative: NotNegative = 0.0
    interval: bool = False  # add the row's own interval, if it has one for the column

    @model_validator(mode="after")
    def _names_a_place(self) -> Self:
        if self.tables == ("*",) and self.columns == ("*",):
            raise ValueError("names neither tables nor columns: it would cover places that no rule was written for")
        return self

    def covers(self, *, table: str, column: str, metric: str) -> bool:
        """Return whether the rule is for this place."""
        wanted = ((self.tables, table), (self.columns, column), (self.metrics, metric))
        return all(any(fnmatchcase(name, pattern) for pattern in patterns) for patterns, name in wanted)

    def tolerance(self, reference: float, *, reach: float = 0.0) -> float:
        """Largest tolerated difference from a reference; `reach` is half the row's interval, widened."""
        return self.absolute + self.relative * abs(reference) + self.interval * reach


class Reproduction(_Strict):
    """Rules for comparing two runs of one profile."""

    verdicts_as_information: tuple[str, ...]  # profiles whose verdicts may differ
    identity: dict[str, tuple[str, ...]]  # table, or * for all others -> columns that name a row
    widening: Annotated[float, Field(ge=1)]  # of intervals
    rounding: Annotated[tuple[ToleranceRule, ...], Field(min_length=1)]  # for models with equal weights
    rules: Annotated[tuple[ToleranceRule, ...], Field(min_length=1)]  # for models trained by the same recipe

    def of_profile(self, name: str) -> Reproduction:
        """The same with only the rules for one profile."""

        def kept(rules: tuple[ToleranceRule, ...]) -> tuple[ToleranceRule, ...]:
            return tuple(rule for rule in rules if any(fnmatchcase(name, pattern) for pattern in rule.profiles))

        return self.model_copy(update={"rounding": kept(self.rounding), "rules": kept(self.rules)})

    def of_equal_weights(self) -> Reproduction:
        """The same for runs whose models have equal weights, and whose numbers differ by rounding only."""
        return self.model_copy(update={"rules": self.rounding, "verdicts_as_information": ()})

    def find(self, *, table: str, column: str, metric: str) -> ToleranceRule | None:
        """The first rule for a place, None where there is none."""
        found = (rule for rule in self.rules if rule.covers(table=table, column=column, metric=metric))
        return next(found, None)

    def rule(self, *, table: str, column: str, metric: str) -> ToleranceRule:
        """The first rule for a place."""
        found = self.find(table=table, column=column, metric=metric)
        if found is None:
            where = f"{table}, column {column!r}" + (f", metric {metric!r}" if metric else "")
            raise CraneError(
                f"expected/tolerances.yaml: no rule of `reproduction` is for {where}; add one with a tolerance, or "
                "one that says that it is not compared"
            )
        return found

    def keeps(self, *, table: str, column: str, metric: str, number: bool) -> bool:
        """Return whether a place is compared with equal or with other weights."""
        where: dict[str, Any] = {"table": table, "column": column, "metric": metric, "number": number}
        return self.compares(**where) or self.of_equal_weights().compares(**where)

    def compares(self, *, table: str, column: str, metric: str, number: bool) -> bool:
        """Return whether a place is compared; a text without a rule is."""
        if number:
            return self.rule(table=table, column=column, metric=metric).compared
        rule = self.find(table=table, column=column, metric=metric)
        return rule is None or rule.compared

    def names_row(self, *, table: str, column: str) -> bool:
        """Return whether a column identifies a row instead of holding a result; a table may have its own list.

        A column that a rule excludes from the comparison does not.
        """
        rule = self.find(table=table, column=column, metric="")
        return column in self.identity.get(table, self.identity["*"]) and (rule is None or rule.compared)


class PublishedBenchmark(_Strict):
    """A benchmark of the paper and its number of questions."""

    items: Count


class Measurements(_Strict):
    """Number of binomial errors in a difference from the published accuracy."""

    unmasked: Count
    masked: Count


class PublishedJudge(_Strict):
    """Open-ended questions of the paper, and the assumed deviation of a score over them."""

    questions: Count
    deviation: Positive
    measurements: Count


class Draws(_Strict):
    """Draws from which the tolerance of LangSpec-F is read."""

    draws: Count
    random_seed: Annotated[int, Field(ge=0)]


class Tolerances(_Strict):
    """Constants of ``expected/tolerances.yaml``."""

    schema_: Literal["crane.tolerances/1"] = Field(alias="schema")
    z: Positive
    benchmarks: dict[str, PublishedBenchmark]
    measurements: Measurements
    judge: PublishedJudge
    overlap_share: Positive
    langspec: Draws
    reproduction: Reproduction

    def _error(self, task: str, published: float, *, masked: bool) -> float:
        """Standard error of the difference between two measured accuracies of a benchmark."""
        if task not in self.benchmarks:
            raise CraneError(f"{TOLERANCES.name}: has no benchmark {task!r}; it has {', '.join(self.benchmarks)}")
        count = self.measurements.masked if masked else self.measurements.unmasked
        return float(np.sqrt(count * published * (1 - published) / self.benchmarks[task].items))

    def accuracy(self, task: str, published: float, *, masked: bool, deviation: float = 0.0) -> float:
        """Tolerance of an accuracy; `deviation` is of anything else that varies: selections, our random draws."""
        return float(self.z * np.hypot(self._error(task, published, masked=masked), deviation))

    def judge_score(self) -> float:
        """Tolerance of a mean judge score, in points."""
        return float(self.z * self.judge.deviation * np.sqrt(self.judge.measurements / self.judge.questions))

    def accuracy_noise(self, unmasked: float, items: float) -> float:
        """Smallest clear change of an accuracy of so many questions: two binomial errors."""
        return self.z * float(np.sqrt(2 * max(unmasked * (1 - unmasked), 0.0) / items))

    def score_noise(self, items: float) -> float:
        """Smallest clear change of a mean judge score of so many questions."""
        return self.z * self.judge.deviation * float(np.sqrt(2 / items))

    def langspec_f1(
        self, unmasked: Scores, masked: Scores, *, target: str, tasks: Mapping[str, str], deviation: float = 0.0
    ) -> float:
        """Tolerance of LangSpec-F1 from the errors of the masked accuracies, as in `accuracy`."""
        errors = {
            code: self.accuracy(tasks[code], value, masked=True, deviation=deviation) / self.z
            for code, value in masked.items()
        }
        return self._langspec(unmasked, masked, errors, target=target)

    def open_langspec(self, unmasked: Scores, masked: Scores, *, target: str, **form: Any) -> float:
        """Tolerance of LangSpec-F on judge scores from the errors of the masked scores; `form` as for `langspec`."""
        errors = dict.fromkeys(masked, self.judge_score() / self.z)
        return self._langspec(unmasked, masked, errors, target=target, **form)

    def _langspec(self, unmasked: Scores, masked: Scores, errors: Scores, *, target: str, **form: Any) -> float:
        """Distance from the published value within which 95 % of the draws of the masked scores are."""
        generator = np.random.default_rng(self.langspec.random_seed)
        centre = langspec(unmasked, masked, target=target, **form).f
        drawn = generator.standard_normal((self.langspec.draws, len(masked)))
        codes = list(masked)
        scores = np.array(list(masked.values())) + np.array([errors[code] for code in codes]) * drawn  # (draws, K)
        before, targets = np.array([[unmasked[code] for code in codes]]), np.array([codes.index(target)])
        found = langspec_values(before[:, None], scores[:, None], targets, **form)[:, 0]
        return float(np.quantile(np.abs(found - centre), _COVERED))


def load_tolerances(path: Path = TOLERANCES) -> Tolerances:
    """Read and check the tolerances."""
    try:
        return Tolerances.model_validate(read_rules(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CraneError(f"{path}: {place}: {first['msg']} (seen: {str(first.get('input'))[:60]!r})") from error
