"""Numbers behind the verdicts of a run: ours with their intervals, what the rule compares them with, the published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from crane_study.frames import read_frame
from crane_study.labels import budget_label, language_name
from crane_study.measure.rows import EVERYTHING, pick, tidy
from crane_study.paper.claims import NOT_RUN, load_rules
from crane_study.paper.published import (
    RELEASED_CONTROL,
    judge_published,
    overlap_chances,
    published_langspec,
    published_overlaps,
    published_rows,
)
from crane_study.publish import MISSING

_SECTIONS = {"token_probability": "03", "accuracy": "04"}  # measure -> section that tables it
_PUBLISHED_CASE = ("kurtosis", "accuracy")  # the method and measure that the paper has numbers for
Case = Mapping[str, Any]  # one verdict of claims.json
_score = "{:z.3f}".format


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
    return "none beyond the 95 % intervals, which hold for all cases together"


class Evidence:
    """The numbers behind the verdicts of the run in a folder, read from its tables."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.published = {item["id"]: item for item in judge_published()}
        scores = published_langspec(published_rows())
        self._means = scores[scores["model"] == "base"].groupby("method")["langspec_f1"].mean()
        self._shared = published_overlaps().set_index(["language_a", "language_b"])["share_of_a"].to_dict()
        self._chances = overlap_chances(published_overlaps())

    def rows(self, case: Case) -> list[Quantity]:
        """Numbers behind one verdict."""
        if not case["numbers"]:
            why = "Not run" if case["verdict"] == NOT_RUN else "Not applicable"
            return [Quantity(why, MISSING, compared_with=case["detail"])]
        makers = {"C1": self._damage, "C1b": self._preserved, "C2": self._rival, "C3": self._random}
        makers |= {"C4": self._shares, "C5": self._damage}
        return makers[case["id"]](case)

    def _damage(self, case: Case) -> list[Quantity]:
        """Share of its score that each masked language loses, and the other language that loses most."""
        drops = self.published[case["id"]]["numbers"].get("relative_drop", {}) if _is_published(case) else {}
        stated = {language: f"{_percent(drop['own'])}, against {_worst(drop)}" for language, drop in drops.items()}
        return [
            Quantity(
                f"{language_name(language)} masked, share lost",
                _percent(found["own"]),
                self._share_lost(case, language),
                _worst(found),
                stated.get(language, MISSING),
            )
            for language, found in case["numbers"]["relative_drop"].items()
        ]

    def _share_lost(self, case: Case, language: str) -> str:
        """Interval of the share of its score that a masked language loses."""
        measure = case["measure"]
        where = {**_labels(case), "masked_language": language}
        if case["id"] == "C5":
            chat = {**where, "model": "chat"}
            return _interval(self._look(f"tables/07_transfer_{measure}.csv", chat, "own_low", "own_high"), _percent)
        change = "nll_rise" if measure == "token_probability" else "accuracy_drop"
        where["evaluation_language"] = language
        found = self._look(_table(case, change), where, "low", "high")
        if found is None:
            return MISSING
        if measure == "token_probability":  # exp(-NLL), so the share lost follows from the rise of the NLL
            return _interval([1 - np.exp(-end) for end in found], _percent)
        unmasked = {"model": "base", "metric": measure, "masked_language": "", "evaluation_language": language}
        before = self._look("results.csv", unmasked, "value")
        return _interval([-end / before[0] for end in reversed(found)], _percent) if before and before[0] else MISSING

    def _preserved(self, case: Case) -> list[Quantity]:
        """Largest share of its score that another language loses under each mask, and under random sets."""
        return [
            Quantity(
                f"{language_name(language)} masked, share lost by {language_name(found['worst_other'])}",
                _percent(found["lost"]),
                compared_with=f"{_percent(found['lost_at_random'])} (random sets of equal size)",
            )
            for language, found in case["numbers"]["others"].items()
        ]

    def _rival(self, case: Case) -> list[Quantity]:
        """Mean LangSpec-F1 and that of LAPE with as many killed neurons."""
        numbers, means = case["numbers"], self._means
        compared = f"{numbers['lape']:.3f} (LAPE with as many killed neurons)"
        stated = f"{means['kurtosis']:.3f}, against {means['lape']:.3f} (LAPE as published)"
        ends, random = (numbers["low"], numbers["high"]), (numbers["random_low"], numbers["random_high"])
        return [
            self._mean(case, case["budget"], f", {budget_label(case['budget'])}", numbers["own"], compared, stated),
            self._trivial(case),
            Quantity("Difference from LAPE", _score(numbers["difference"]), _interval(ends, _score), "0"),
            Quantity(
                "Random sets of equal size: difference from LAPE",
                _score(numbers["random"] - numbers["lape"]),
                _interval(random, _score),
                "0",
            ),
        ]

    def _random(self, case: Case) -> list[Quantity]:
        """Mean LangSpec-F1 and those of the random draws."""
        numbers, means = case["numbers"], self._means
        draws = f"{numbers['random_highest']:.3f}, highest of {numbers['draws']} random draws"
        draws += f" (mean {numbers['random_mean']:.3f}), p = {numbers['p_value']:.2g}"
        stated = f"{means['kurtosis']:.3f}, against {means[RELEASED_CONTROL]:.3f} (one draw, of the released code)"
        return [self._mean(case, case["budget"], "", numbers["own"], draws, stated), self._trivial(case)]

    def _mean(self, case: Case, budget: str, words: str, own: float, compared: str, published: str) -> Quantity:
        """A mean LangSpec-F1 with its interval."""
        table, where = _table(case, "langspec"), {**_labels(case), "budget": str(budget)}
        found = self._look(table, where, "mean_low", "mean_high")
        parts = self._look(table, where, "precision", "recall")
        stated = published if _is_published(case) else MISSING
        return Quantity(f"Mean LangSpec-F1{words}", _f1(own, parts), _interval(found, _score), compared, stated)

    def _trivial(self, case: Case) -> Quantity:
        """LangSpec-F1 of the mask of all neurons, which is the same for every language."""
        where = {**_labels(case), "method": EVERYTHING, "budget": "1"}
        found = self._look(_table(case, "langspec"), where, "mean", "precision", "recall")
        name = "Mean LangSpec-F1 with every neuron silenced"
        return Quantity(name, _f1(found[0], found[1:]) if found else MISSING)

    def _shares(self, case: Case) -> list[Quantity]:
        """Share of a language's set that is also in another language's, and the share expected by chance."""
        rows = []
        for pair, found in case["numbers"]["pairs"].items():
            first, other = pair.split("-")
            within = f" ({_percent(found['low_share_of_first'])} to {_percent(found['high_share_of_first'])})"
            told = MISSING
            if (first, other) in self._shared and case["method"] == _PUBLISHED_CASE[0]:
                told = f"{_percent(self._shared[first, other])}, by chance {_percent(self._chances[first, other])}"
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
        path = self._folder / table
        frame = tidy(read_frame(path)) if path.is_file() else pd.DataFrame()
        if any(name not in frame for name in (*where, *columns)):
            return None
        found = pick(frame, **where)[list(columns)].astype(float).dropna().to_numpy()
        return tuple(map(float, found[0])) if len(found) else None


def _is_published(case: Case) -> bool:
    """Return whether the paper has numbers for a case."""
    return (case["method"], case["measure"]) == _PUBLISHED_CASE


def _table(case: Case, name: str) -> str:
    """Path of a table of the section that has a verdict's measure."""
    return f"tables/{_SECTIONS[case['measure']]}_{name}.csv"


def _labels(case: Case) -> dict[str, str]:
    return {"model": "base", "selected_on": "base", "method": case["method"], "budget": str(case["budget"])}


def _worst(found: Mapping[str, Any]) -> str:
    return f"{_percent(found['worst_other_drop'])} ({language_name(found['worst_other'])}, worst other)"


def _f1(value: float, parts: Sequence[float] | None) -> str:
    """LangSpec-F1, with precision and recall where they are known."""
    return _score(value) + (f" (precision {parts[0]:.2f}, recall {parts[1]:.2f})" if parts else "")


def _percent(share: float) -> str:
    return f"{100 * share:z.1f} %"


def _interval(ends: Sequence[float] | None, text: Callable[[float], str]) -> str:
    return f"{text(ends[0])} to {text(ends[1])}" if ends else MISSING
