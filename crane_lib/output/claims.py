"""Verdicts on the paper's claims, by the rules of ``expected/claims.yaml``.

Every rule is judged for each method and measure by itself. Only directions are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_lib.output.judging import NOT_RUN, Finding, judge_damage, judge_overlaps, judge_random, judge_rival
from crane_lib.output.style import METRIC_LABELS, method_label

SCHEMA = "crane.claims/1"
RULES_SCHEMA = "crane.claim-rules/1"
RULES = Path(__file__).resolve().parents[2] / "expected" / "claims.yaml"
COMMON = "common"


def load_rules(path: Path = RULES) -> dict[str, Any]:
    """The claims, their rules, and the methods and measures they are judged for.

    Raises
    ------
    CraneError : the file is missing, is not YAML, or lacks a claim
    """
    try:
        rules = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CraneError(f"{path}: no such file; run from a clone of the repository") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CraneError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(rules, dict) or rules.get("schema") != RULES_SCHEMA:
        raise CraneError(f"{path}: is not a file of claims (expected schema {RULES_SCHEMA!r})")
    return rules


def judge(
    *,
    rows: pd.DataFrame | None,
    langspec: pd.DataFrame | None,
    overlaps: pd.DataFrame | None,
    budget: str | float,
    rules: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Judge every claim for every method and measure.

    Parameters
    ----------
    rows, langspec, overlaps : tidy result rows, LangSpec rows, frame of `crane_lib.overlap.overlaps`; None or lacking
        rows make the claims that need them NOT RUN
    budget : the common budget
    rules : claims as `load_rules` gives them

    Returns
    -------
    one entry a claim, method and measure: id, title, place, rule, reads, method, budget, measure (empty for C4, which
    has none), verdict, numbers and detail (a sentence made of the numbers, or the reason for NOT RUN)
    """
    rules = load_rules() if rules is None else rules
    common = str(budget)
    verdicts = []
    for claim in rules["claims"]:
        for method, kind in rules["methods"].items():
            own = common if kind == COMMON else str(kind)
            for measure in [""] if claim["id"] == "C4" else rules["measures"]:
                finding = _judge_one(claim, rows, langspec, overlaps, method, own, common, measure)
                words = {name: claim[name] for name in ("id", "title", "place", "rule", "reads")}
                case = {"method": method, "budget": own, "measure": measure}
                found = {"verdict": finding.verdict, "numbers": finding.numbers, "detail": finding.detail}
                verdicts.append({**words, **case, **found})
    return verdicts


def _judge_one(
    claim: Mapping[str, Any],
    rows: pd.DataFrame | None,
    langspec: pd.DataFrame | None,
    overlaps: pd.DataFrame | None,
    method: str,
    budget: str,
    common: str,
    measure: str,
) -> Finding:
    """One claim for one method and measure."""
    match claim["id"]:
        case "C1" | "C5":
            model = "base" if claim["id"] == "C1" else "chat"
            return judge_damage(rows, measure=measure, method=method, budget=budget, model=model)
        case "C2":
            return judge_rival(langspec, measure=measure, method=method, budget=budget, common=common)
        case "C3":
            draws = int(claim["minimum_draws"])
            return judge_random(langspec, measure=measure, method=method, budget=budget, minimum_draws=draws)
        case "C4":
            level = float(claim["significance"])
            return judge_overlaps(overlaps, method=method, budget=budget, significance=level)
        case other:
            raise CraneError(f"claims: no judge for {other!r}; the claims are C1 to C5")


def write_claims(path: Path, verdicts: Sequence[Mapping[str, Any]], *, profile: str) -> None:
    """Write verdicts to a JSON file."""
    write_json(path, {"schema": SCHEMA, "profile": profile, "verdicts": [dict(item) for item in verdicts]})


def read_claims(path: Path) -> list[dict[str, Any]]:
    """Verdicts written by `write_claims`.

    Raises
    ------
    CraneError : no such file, or another schema
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CraneError(f"{path}: is not a file of verdicts (expected schema {SCHEMA!r})")
    return value["verdicts"]


def verdict_table(verdicts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Verdicts at a glance: a row a claim, a column a method and measure.

    A claim without a measure has its one verdict a method in that method's first column.
    """
    cases = list(dict.fromkeys((item["method"], item["budget"], item["measure"]) for item in verdicts))
    cases = [case for case in cases if case[2]]
    first = {method: measure for method, _, measure in reversed(cases)}
    found = {
        (item["id"], item["method"], item["measure"] or first.get(item["method"], "")): item["verdict"]
        for item in verdicts
    }
    table: dict[str, list[str]] = {
        "claim": list(dict.fromkeys(item["id"] for item in verdicts)),
        "statement": list(dict.fromkeys(item["title"] for item in verdicts)),
    }
    for method, budget, measure in cases:
        heading = f"{method_label(method, budget)}: {METRIC_LABELS.get(measure, measure).lower()}"
        table[heading] = [found.get((claim, method, measure), "") for claim in table["claim"]]
    return pd.DataFrame(table)


def not_run(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every verdict that could not be reached, with the reason."""
    return [
        f"{item['id']}, {method_label(item['method'], item['budget'])}"
        + (f", {METRIC_LABELS.get(item['measure'], item['measure']).lower()}" if item["measure"] else "")
        + f": {item['detail']}"
        for item in verdicts
        if item["verdict"] == NOT_RUN
    ]
