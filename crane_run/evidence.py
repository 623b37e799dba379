"""Numbers behind the verdicts of a run: ours with their intervals, what the rule compares them with, the published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crane_study.frames import read_frame
from crane_study.labels import budget_label, language_name
from crane_study.measure.rows import pick, tidy
from crane_study.paper.claims import NOT_RUN, load_rules
from crane_study.paper.published import judge_published, published_langspec, published_overlaps, published_rows
from crane_study.publish import MISSING

_SECTIONS = {"token_probability": "03", "accuracy": "04"}  # measure -> section that tables it
_PUBLISHED_CASE = ("kurtosis", "accuracy")  # the method and measure that the paper has numbers for
_RANDOM = "random"
Case = Mapping[str, Any]  # one verdict of claims.json


class Quantity(NamedTuple):
    """One row of the numbers behind a verdict, as texts."""

    name: str
    ours: str
    interval: str = MISSING
    compared_with: str = MISSING
    published: str = MISSING


HEADINGS = ("Quantity", "Ours", "95 % interval", "Compared with", "Published")


def tolerance(claim: str) -> str:
    """By how much the rule of a claim lets a number miss, in words."""
    rule = next(rule for rule in load_rules()["claims"] if rule["id"] == claim)
    if "significance" in rule:
        return f"none beyond the significance of p < {rule['significance']:g}"
    if "minimum_draws" in rule:
        return f"none: every one of at least {rule['minimum_draws']} draws has to lie below"
    return "none: the direction has to hold in every case"


class Evidence:
    """The numbers behind the verdicts of the run in a folder, read from its tables."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._published = {item["id"]: item for item in judge_published()}
        scores = published_langspec(published_rows())
        self._means = scores[scores["model"] == "base"].groupby("method")["langspec_f1"].mean()
        shared = published_overlaps()
        self._shared = {(row.language_a, row.language_b): float(row.share_of_a) for row in shared.itertuples()}

    def rows(self, case: Case) -> list[Quantity]:
        """Numbers behind one verdict."""
        if case["verdict"] == NOT_RUN:
            return [Quantity("Not run", MISSING, compared_with=case["detail"])]
        makers = {"C1": self._damage, "C2": self._rival, "C3": self._random, "C4": self._shares, "C5": self._damage}
        return makers[case["id"]](case)

    def _damage(self, case: Case) -> list[Quantity]:
        """Share of its score that each masked language loses, and the other language that loses most."""
        model = "base" if case["id"] == "C1" else "chat"
        drops = self._published[case["id"]]["numbers"].get("relative_drop", {}) if _is_published(case) else {}
        rows = []
        for language, found in case["numbers"]["relative_drop"].items():
            stated = drops.get(language)
            rows.append(
                Quantity(
                    f"{language_name(language)} masked, share lost",
                    _percent(found["own"]),
                    self._share_lost(case, model=model, language=language),
                    _worst(found),
                    f"{_percent(stated['own'])}, against {_worst(stated)}" if stated else MISSING,
                )
            )
        return rows

    def _share_lost(self, case: Case, *, model: str, language: str) -> str:
        """Interval of the share of its score that a masked language loses."""
        measure = case["measure"]
        where = {**_labels(case, model=model), "masked_language": language}
        if model == "chat":
            return _interval(self._look(f"07_transfer_{measure}", where, "own_low", "own_high"), _percent)
        change = "nll_rise" if measure == "token_probability" else "accuracy_drop"
        where["evaluation_language"] = language
        found = self._look(f"{_SECTIONS[measure]}_{change}", where, "low", "high")
        if found is None:
            return MISSING
        if measure == "token_probability":  # exp(-NLL), so the share lost follows from the rise of the NLL
            return _interval([1 - np.exp(-end) for end in found], _percent)
        before = self._unmasked_score(model, measure, language)
        return _interval([-end / before for end in reversed(found)], _percent) if before else MISSING

    def _unmasked_score(self, model: str, metric: str, language: str) -> float:
        path = self._folder / "results.csv"
        if not path.is_file():
            return 0.0
        found = pick(tidy(read_frame(path)), model=model, metric=metric, masked_language="")
        values = found.loc[found["evaluation_language"] == language, "value"]
        return float(values.iloc[0]) if len(values) else 0.0

    def _rival(self, case: Case) -> list[Quantity]:
        """Mean LangSpec-F1 and that of LAPE, as published and at the common budget."""
        numbers = case["numbers"]
        common = budget_label(numbers["common_budget"])
        stated = f"{self._means['kurtosis']:.3f}, against {self._means['lape']:.3f}"
        rows = [
            Quantity(
                f"Mean LangSpec-F1, {budget_label(case['budget'])}",
                _score(numbers["own"]),
                self._mean_interval(case, case["budget"]),
                f"{numbers['lape_published']:.3f} (LAPE, as published)",
                stated if _is_published(case) else MISSING,
            ),
            Quantity(
                f"Mean LangSpec-F1, both at {common}",
                _score(numbers["own_common"]),
                self._mean_interval(case, numbers["common_budget"]),
                f"{numbers['lape_common']:.3f} (LAPE, {common})",
            ),
        ]
        table = f"{_SECTIONS[case['measure']]}_differences_{case['method']}"
        lape = {"model": "base", "selected_on": "base", "method": "lape", "budget": "published"}
        if found := self._look(table, lape, "difference", "low", "high"):
            name = "Difference from LAPE, as published"
            rows.append(Quantity(name, _score(found[0]), _interval(found[1:], _score), "0"))
        return rows

    def _random(self, case: Case) -> list[Quantity]:
        """Mean LangSpec-F1 and those of the random draws."""
        numbers = case["numbers"]
        found = self._look(f"{_SECTIONS[case['measure']]}_langspec", _labels(case), "p_value", "p_holm")
        p = f", p = {found[0]:.2g} ({found[1]:.2g} with Holm's correction over the table)" if found else ""
        draws = f"{numbers['random_highest']:.3f}, highest of {numbers['draws']} random draws"
        stated = f"{self._means['kurtosis']:.3f}, against {self._means['random_like_kurtosis']:.3f} (one draw)"
        return [
            Quantity(
                "Mean LangSpec-F1",
                _score(numbers["own"]),
                self._mean_interval(case, case["budget"]),
                f"{draws} (mean {numbers['random_mean']:.3f}){p}",
                stated if _is_published(case) else MISSING,
            )
        ]

    def _mean_interval(self, case: Case, budget: str) -> str:
        where = {**_labels(case), "budget": str(budget)}
        return _interval(self._look(f"{_SECTIONS[case['measure']]}_langspec", where, "mean_low", "mean_high"), _score)

    def _shares(self, case: Case) -> list[Quantity]:
        """Share of a language's set that is also in another language's, and the share expected by chance."""
        rows = []
        for pair, found in case["numbers"]["pairs"].items():
            first, other = pair.split("-")
            where = {"method": case["method"], "budget": str(case["budget"])}
            where |= {"language_a": first, "language_b": other}
            chance = self._look("02_overlaps", where, "chance_low", "chance_high")
            within = f" ({_interval(chance, _percent)})" if chance else ""
            stated, random = self._shared.get((first, other)), self._shared.get((first, _RANDOM))
            told = MISSING
            if stated is not None and case["method"] == _PUBLISHED_CASE[0]:
                beside = "" if random is None else f", against {_percent(random)} of a random set"
                told = f"{_percent(stated)}{beside}"
            rows.append(
                Quantity(
                    f"Share of {language_name(first)} that is also {language_name(other)}",
                    _percent(found["share_of_first"]),
                    MISSING,
                    f"by chance {_percent(found['expected_share_of_first'])}{within}, p = {found['p_value']:.2g}",
                    told,
                )
            )
        return rows

    def _look(self, table: str, where: Mapping[str, str], *columns: str) -> tuple[float, ...] | None:
        """Numbers of the first row of one of the run's tables that has these values; None if there is none."""
        path = self._folder / "tables" / f"{table}.csv"
        if not path.is_file():
            return None
        frame = tidy(read_frame(path))
        if any(name not in frame for name in (*where, *columns)):
            return None
        found = pick(frame, **where)[list(columns)].astype(float).dropna().to_numpy()
        return tuple(map(float, found[0])) if len(found) else None


def _is_published(case: Case) -> bool:
    """Return whether the paper has numbers for a case."""
    return (case["method"], case["measure"]) == _PUBLISHED_CASE


def _labels(case: Case, *, model: str = "base") -> dict[str, str]:
    return {"model": model, "selected_on": "base", "method": case["method"], "budget": str(case["budget"])}


def _worst(found: Mapping[str, Any]) -> str:
    return f"{_percent(found['worst_other_drop'])} ({language_name(found['worst_other'])}, worst other)"


def _percent(share: float) -> str:
    return f"{100 * share:z.1f} %"


def _score(value: float) -> str:
    return f"{value:z.3f}"


def _interval(ends: Sequence[float] | None, text: Callable[[float], str]) -> str:
    return f"{text(ends[0])} to {text(ends[1])}" if ends else MISSING
