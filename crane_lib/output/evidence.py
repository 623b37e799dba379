"""The numbers behind a verdict as a table: ours with its interval, what it is held against, the published one.

Intervals are read from the tables of sections 02 to 04 and 07; where a section did not run there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crane_lib.files import read_frame
from crane_lib.output.claims import load_rules
from crane_lib.output.frames import pick, tidy
from crane_lib.output.judging import NOT_RUN
from crane_lib.output.published import judge_published, published_langspec, published_overlaps, published_rows
from crane_lib.output.style import budget_label, language_name
from crane_lib.output.writing import MISSING

_SECTION = {"token_probability": "03", "accuracy": "04"}  # that measures it
_JUDGED = ("kurtosis", "accuracy")  # what the paper has numbers for
_RANDOM = "random"
COLUMNS = ("Quantity", "Ours", "95 % interval", "Held against", "Published")
Row = tuple[str, str, str, str, str]


def tolerance(claim: str) -> str:
    """By how much a claim's rule lets a number miss, in words."""
    rule = next(rule for rule in load_rules()["claims"] if rule["id"] == claim)
    if "significance" in rule:
        return f"none beyond the significance of p < {rule['significance']:g}"
    if "minimum_draws" in rule:
        return f"none: every one of at least {rule['minimum_draws']} draws has to lie below"
    return "none: the direction has to hold in every case"


class Evidence:
    """The numbers behind the verdicts of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._published = {item["id"]: item for item in judge_published()}
        rows = published_rows()
        scores = published_langspec(rows)
        self._means = scores[scores["model"] == "base"].groupby("method")["langspec_f1"].mean()
        shared = published_overlaps()
        self._shared = {(row.language_a, row.language_b): float(row.share_of_a) for row in shared.itertuples()}

    def rows(self, case: Mapping[str, Any]) -> list[Row]:
        """The numbers behind one verdict, a row a quantity, in the order of `COLUMNS`."""
        if case["verdict"] == NOT_RUN:
            return [("Not run", MISSING, MISSING, case["detail"], MISSING)]
        makers: dict[str, Callable[[Mapping[str, Any]], list[Row]]] = {
            "C1": self._damage,
            "C2": self._rival,
            "C3": self._random,
            "C4": self._shares,
            "C5": self._damage,
        }
        return makers[case["id"]](case)

    def _damage(self, case: Mapping[str, Any]) -> list[Row]:
        """Share of its score that each language loses when it is masked, beside the other language that loses most."""
        model = "base" if case["id"] == "C1" else "chat"
        published: Mapping[str, Any] = {}
        if (case["method"], case["measure"]) == _JUDGED:
            published = self._published[case["id"]]["numbers"].get("relative_drop", {})
        rows = []
        for language, found in case["numbers"]["relative_drop"].items():
            stated = published.get(language)
            rows.append(
                (
                    f"{language_name(language)} masked, share lost",
                    _percent(found["own"]),
                    self._share_lost(case, model=model, language=language),
                    f"{_worst(found)}",
                    f"{_percent(stated['own'])}, against {_worst(stated)}" if stated else MISSING,
                )
            )
        return rows

    def _share_lost(self, case: Mapping[str, Any], *, model: str, language: str) -> str:
        """Interval of the share of its score that a masked language loses."""
        measure = case["measure"]
        if model == "chat":
            where = {**_set(case, model=model), "masked_language": language}
            found = self._look(f"07_transfer_{measure}", where, ("own_low", "own_high"))
            return _interval(found[0], found[1], _percent) if found else MISSING
        found = self._look(
            f"{_SECTION[measure]}_{'nll_rise' if measure == 'token_probability' else 'accuracy_drop'}",
            {**_set(case, model=model), "masked_language": language, "evaluation_language": language},
            ("low", "high"),
        )
        if found is None:
            return MISSING
        low, high = found
        if measure == "token_probability":  # exp(-NLL), so that its share lost follows from the rise of the NLL
            return _interval(1 - np.exp(-low), 1 - np.exp(-high), _percent)
        before = self._unmasked(model, measure, language)
        return _interval(-high / before, -low / before, _percent) if before else MISSING

    def _unmasked(self, model: str, metric: str, language: str) -> float:
        path = self._folder / "results.csv"
        if not path.is_file():
            return 0.0
        found = pick(tidy(read_frame(path)), model=model, metric=metric, masked_language="")
        values = found.loc[found["evaluation_language"] == language, "value"]
        return float(values.iloc[0]) if len(values) else 0.0

    def _rival(self, case: Mapping[str, Any]) -> list[Row]:
        """Mean LangSpec-F1 beside LAPE's, as published and at the common budget."""
        numbers = case["numbers"]
        common = budget_label(numbers["common_budget"])
        stated = f"{self._means['kurtosis']:.3f}, against {self._means['lape']:.3f}"
        rows = [
            (
                f"Mean LangSpec-F1, {budget_label(case['budget'])}",
                f"{numbers['own']:.3f}",
                self._mean_interval(case, case["budget"]),
                f"{numbers['lape_published']:.3f} (LAPE, as published)",
                stated if (case["method"], case["measure"]) == _JUDGED else MISSING,
            ),
            (
                f"Mean LangSpec-F1, both at {common}",
                f"{numbers['own_common']:.3f}",
                self._mean_interval(case, numbers["common_budget"]),
                f"{numbers['lape_common']:.3f} (LAPE, {common})",
                MISSING,
            ),
        ]
        table = f"{_SECTION[case['measure']]}_differences_{case['method']}"
        lape = {"model": "base", "selected_on": "base", "method": "lape", "budget": "published"}
        if found := self._look(table, lape, ("difference", "low", "high")):
            difference, low, high = found
            told = _score(difference), _interval(low, high, _score)
            rows.append(("Difference from LAPE, as published", *told, "0", MISSING))
        return rows

    def _random(self, case: Mapping[str, Any]) -> list[Row]:
        """Mean LangSpec-F1 beside the random draws."""
        numbers = case["numbers"]
        found = self._look(f"{_SECTION[case['measure']]}_langspec", _set(case), ("p_value", "p_holm"))
        p = f", p = {found[0]:.2g} ({found[1]:.2g} with Holm's correction over the table)" if found else ""
        against = (
            f"{numbers['random_highest']:.3f}, highest of {numbers['draws']} random draws "
            f"(mean {numbers['random_mean']:.3f}){p}"
        )
        stated = f"{self._means['kurtosis']:.3f}, against {self._means['random_like_kurtosis']:.3f} (one draw)"
        judged = (case["method"], case["measure"]) == _JUDGED
        interval = self._mean_interval(case, case["budget"])
        return [("Mean LangSpec-F1", f"{numbers['own']:.3f}", interval, against, stated if judged else MISSING)]

    def _mean_interval(self, case: Mapping[str, Any], budget: str) -> str:
        where = {**_set(case), "budget": str(budget)}
        found = self._look(f"{_SECTION[case['measure']]}_langspec", where, ("mean_low", "mean_high"))
        return _interval(found[0], found[1], _score) if found else MISSING

    def _shares(self, case: Mapping[str, Any]) -> list[Row]:
        """Share of a language's set that another's has, too, beside chance."""
        rows = []
        for pair, found in case["numbers"]["pairs"].items():
            first, other = pair.split("-")
            chance = self._look(
                "02_overlaps",
                {"method": case["method"], "budget": str(case["budget"]), "language_a": first, "language_b": other},
                ("chance_low", "chance_high"),
            )
            within = f" ({_interval(chance[0], chance[1], _percent)})" if chance else ""
            against = f"by chance {_percent(found['expected_share_of_first'])}{within}, p = {found['p_value']:.2g}"
            stated = self._shared.get((first, other))
            random = self._shared.get((first, _RANDOM))
            beside = "" if random is None else f", against {_percent(random)} of a random set"
            told = f"{_percent(stated)}{beside}" if stated is not None and case["method"] == _JUDGED[0] else MISSING
            name = f"Share of {language_name(first)} that is {language_name(other)}, too"
            rows.append((name, _percent(found["share_of_first"]), MISSING, against, told))
        return rows

    def _look(self, table: str, where: Mapping[str, str], columns: Sequence[str]) -> tuple[float, ...] | None:
        """Numbers of the first row of one of the run's tables that has these values; None where there are none."""
        path = self._folder / "tables" / f"{table}.csv"
        if not path.is_file():
            return None
        frame = tidy(read_frame(path))
        if any(name not in frame for name in (*where, *columns)):
            return None
        found = pick(frame, **where)[list(columns)].astype(float).dropna().to_numpy()
        return tuple(map(float, found[0])) if len(found) else None


def _set(case: Mapping[str, Any], *, model: str = "base") -> dict[str, str]:
    return {"model": model, "selected_on": "base", "method": case["method"], "budget": str(case["budget"])}


def _worst(found: Mapping[str, Any]) -> str:
    return f"{_percent(found['worst_other_drop'])} ({language_name(found['worst_other'])}, worst other)"


def _percent(share: float) -> str:
    return f"{100 * share:z.1f} %"


def _score(value: float) -> str:
    return f"{value:z.3f}"


def _interval(low: float, high: float, text: Callable[[float], str]) -> str:
    return f"{text(low)} to {text(high)}"
