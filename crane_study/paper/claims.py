"""Verdicts on the paper's claims, by the rules of ``expected/claims.yaml``.

Every rule is judged separately for each method and measure. Only directions are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_study import ROOT
from crane_study.labels import METRIC_LABELS, language_name, method_label, ordered_languages
from crane_study.measure.rows import budget_text, effects, pick, tidy
from crane_study.paper import read_rules
from crane_study.uncertainty.overlap import SMALLEST_P

REPRODUCED, NOT_REPRODUCED, NOT_RUN = "REPRODUCED", "NOT REPRODUCED", "NOT RUN"
SCHEMA = "crane.claims/1"
RULES_SCHEMA = "crane.claim-rules/1"
RULES = ROOT / "expected" / "claims.yaml"
COMMON = "common"
Results: TypeAlias = pd.DataFrame | None  # None: not measured


class _Missing(Exception):
    """Reason why a claim cannot be judged."""


@dataclass(frozen=True)
class _Case:
    """One claim for one method and measure: its rule, the set's and the common budget, and the results (`judge`)."""

    rule: Mapping[str, Any]
    method: str
    budget: str
    measure: str
    common: str
    rows: Results
    langspec: Results
    overlaps: Results

    @property
    def words(self) -> str:
        """Name of the measure within a sentence."""
        return METRIC_LABELS[self.measure].lower()


@dataclass(frozen=True)
class Finding:
    """A verdict, the numbers behind it, and a sentence made of them."""

    verdict: str
    detail: str
    numbers: dict[str, Any] = field(default_factory=dict)


def _finding(holds: bool, detail: str, numbers: dict[str, Any]) -> Finding:
    return Finding(REPRODUCED if holds else NOT_REPRODUCED, detail, numbers)


def _shares_lost(case: _Case, model: str) -> pd.DataFrame:
    """Share of its unmasked score that each language (columns) loses under each mask (rows) of the base model's set."""
    if case.rows is None or case.rows.empty:
        raise _Missing("there are no result rows")
    frame = tidy(case.rows, needed=["model", "metric", "masked_language", "evaluation_language", "value"])
    scores = frame[(frame["model"] == model) & (frame["metric"] == case.measure)]
    unmasked = scores[scores["masked_language"] == ""]
    languages = ordered_languages(unmasked["evaluation_language"])
    if not languages:
        raise _Missing(f"there is no {case.words} of the {model} model without a mask")
    if len(languages) < 2:
        raise _Missing(f"the {case.words} of the {model} model is there for {len(languages)} language, two are needed")
    if not (unmasked["value"] > 0).all():
        raise _Missing(f"an unmasked {case.words} of the {model} model is not positive")
    changed = effects(scores, metric=case.measure)
    lost = pick(changed, selected_on="base", method=case.method, budget=case.budget)
    if lost.empty:
        name = method_label(case.method, case.budget)
        raise _Missing(f"there is no {case.words} of the {model} model with base-model sets masked: {name}")
    shares = lost.pivot_table(index="masked_language", columns="evaluation_language", values="relative_drop")
    shares = shares.reindex(index=languages, columns=languages)
    for masked, evaluated in np.argwhere(shares.isna().to_numpy()):
        pair = f"{language_name(languages[evaluated])} with the {language_name(languages[masked])} set masked"
        raise _Missing(f"the {model} model has no {case.words} of {pair}")
    return shares


def _judge_damage(case: _Case) -> Finding:
    """C1 (base model) and C5 (chat model): with its base-model set masked, each language loses the largest share."""
    model = "base" if case.rule["id"] == "C1" else "chat"
    shares = _shares_lost(case, model)
    numbers: dict[str, Any] = {"languages": len(shares), "satisfied": 0, "relative_drop": {}}
    parts = []
    for masked in map(str, shares.index):
        own, others = float(shares.loc[masked, masked]), shares.loc[masked].drop(masked)
        worst, most = str(others.idxmax()), float(others.max())
        holds = own > 0 and own > most
        numbers["satisfied"] += holds
        numbers["relative_drop"][masked] = {"own": own, "worst_other": worst, "worst_other_drop": most, "holds": holds}
        parts.append(f"{language_name(masked)} {own:.1%} (worst other: {language_name(worst)} {most:.1%})")
    satisfied = numbers["satisfied"]
    detail = (
        f"Share of {case.words} lost on the {model} model by the masked language: {'; '.join(parts)}. "
        f"It loses most in {satisfied} of {len(shares)} cases."
    )
    return _finding(satisfied == len(shares), detail, numbers)


def _draw_means(case: _Case, method: str, budget: str) -> pd.Series:
    """Mean over languages of LangSpec-F1 on the base model, per draw."""
    if case.langspec is None or case.langspec.empty:
        raise _Missing("there are no LangSpec rows")
    needed = ["model", "selected_on", "method", "budget", "metric", "langspec_f1", "random_seed"]
    frame = pick(tidy(case.langspec, needed=needed), model="base", selected_on="base", metric=case.measure)
    languages = set(frame["masked_language"])
    found, name = pick(frame, method=method, budget=budget), method_label(method, budget)
    if found.empty:
        raise _Missing(f"no LangSpec-F1 by {case.words} for {name}")
    for draw, part in found.groupby("random_seed"):
        values = part["langspec_f1"]
        if set(part["masked_language"]) != languages or len(part) != len(languages) or not np.isfinite(values).all():
            raise _Missing(f"{name}, draw {draw}: LangSpec-F1 is not there once for every language")
    return found.groupby("random_seed")["langspec_f1"].mean()


def _judge_rival(case: _Case) -> Finding:
    """C2: mean LangSpec-F1 above LAPE's as published, and above LAPE's with both at the common budget."""
    pairs = ((case.method, case.budget), ("lape", "published"), (case.method, case.common), ("lape", case.common))
    own, lape, own_common, lape_common = (float(_draw_means(case, *pair).mean()) for pair in pairs)
    numbers = {"common_budget": budget_text(case.common), "own": own, "lape_published": lape}
    numbers |= {"own_common": own_common, "lape_common": lape_common}
    published, same = own > lape, own_common > lape_common
    detail = (
        f"Mean LangSpec-F1 by {case.words}: {own:.3f} ({method_label(case.method, case.budget)}) "
        f"{'>' if published else 'is not above'} {lape:.3f} (LAPE as published); both at "
        f"{float(case.common) * 100:g} %: {own_common:.3f} {'>' if same else 'is not above'} {lape_common:.3f} (LAPE)."
    )
    return _finding(published and same, detail, numbers)


def _judge_random(case: _Case) -> Finding:
    """C3: mean LangSpec-F1 above that of every random draw matched to the set in every layer and site."""
    score = float(_draw_means(case, case.method, case.budget).mean())
    random = _draw_means(case, f"random_like_{case.method}", case.budget)
    minimum = int(case.rule["minimum_draws"])
    if len(random) < minimum:
        raise _Missing(f"random draws: {len(random)}, at least {minimum} are needed")
    mean, lowest, highest = float(random.mean()), float(random.min()), float(random.max())
    below = int((random < score).sum())
    numbers = {"own": score, "random_mean": mean, "random_lowest": lowest, "random_highest": highest}
    numbers |= {"draws": len(random), "draws_below": below}
    detail = (
        f"Mean LangSpec-F1 by {case.words}: {score:.3f}, above {below} of {len(random)} random draws "
        f"({lowest:.3f} to {highest:.3f}, mean {mean:.3f})."
    )
    return _finding(below == len(random), detail, numbers)


def _judge_overlaps(case: _Case) -> Finding:
    """C4: every pair of languages shares more units than chance."""
    if case.overlaps is None or case.overlaps.empty:
        raise _Missing("there are no overlaps of neuron sets")
    needed = ["model", "method", "budget", "language_a", "language_b", "shared", "share_of_a", "p_value"]
    frame = tidy(case.overlaps, needed=needed)
    if len(set(frame["model"])) > 1:
        frame = pick(frame, model="base")
    languages = ordered_languages([*frame["language_a"], *frame["language_b"]])
    frame, name = pick(frame, method=case.method, budget=case.budget), method_label(case.method, case.budget)
    if frame.empty:
        raise _Missing(f"no overlaps of {name} sets")
    pairs: dict[str, Any] = {}
    parts = []
    for a, b in combinations(languages, 2):
        found = frame[(frame["language_a"] == a) & (frame["language_b"] == b)]
        if len(found) != 1 or not np.isfinite(found["p_value"].iloc[0]):
            raise _Missing(f"no single overlap of {a!r} with {b!r} for {name}")
        row = found.iloc[0]
        p_value, share = float(row["p_value"]), float(row["share_of_a"])
        expected = float(row.get("expected_share_of_a", np.nan))
        pairs[f"{a}-{b}"] = {"shared": int(row["shared"]), "share_of_first": share, "p_value": p_value}
        chance = ""
        if np.isfinite(expected):
            pairs[f"{a}-{b}"]["expected_share_of_first"] = expected
            chance = f", by chance {expected:.1%}"
        p_text = f"p < {SMALLEST_P:g}" if p_value <= SMALLEST_P else f"p = {p_value:.2g}"
        parts.append(f"{language_name(a)} and {language_name(b)} {share:.1%} of the first{chance}, {p_text}")
    significance = float(case.rule["significance"])
    above = sum(pair["p_value"] < significance for pair in pairs.values())
    detail = (
        f"Shared units: {'; '.join(parts)}. More than chance at p < {significance:g} in {above} of {len(pairs)} pairs."
    )
    if case.method == "contrast":
        detail += (
            " Contrast gives a neuron a positive score in one language at most, so its sets are disjoint wherever the "
            "scores taken are positive: too few shared units are a property of this rule, not of the model."
        )
    return _finding(above == len(pairs), detail, {"pairs": pairs, "above_chance": above})


_JUDGES: dict[str, Callable[[_Case], Finding]] = {
    "C1": _judge_damage,
    "C2": _judge_rival,
    "C3": _judge_random,
    "C4": _judge_overlaps,
    "C5": _judge_damage,
}


def load_rules(path: Path = RULES) -> dict[str, Any]:
    """Read the claims, their rules, and the methods and measures they are judged for."""
    rules = read_rules(path)
    if not isinstance(rules, dict) or rules.get("schema") != RULES_SCHEMA:
        raise CraneError(f"{path}: is not a file of claims (expected schema {RULES_SCHEMA!r})")
    for claim in rules["claims"]:
        if claim["id"] not in _JUDGES:
            raise CraneError(f"{path}: no judge for {claim['id']!r}; the claims are {', '.join(_JUDGES)}")
    return rules


def judge(
    *, rows: Results, langspec: Results, overlaps: Results, budget: str | float, rules: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Judge every claim for every method and measure; claims whose rows or overlaps are missing are NOT RUN.

    Returns one entry per claim, method and measure (empty for C4, which has none), with the words of its rule, verdict,
    numbers and detail: a sentence made of the numbers, or the reason for NOT RUN.
    """
    rules = load_rules() if rules is None else rules
    common = str(budget)
    verdicts = []
    for claim in rules["claims"]:
        words = {name: claim[name] for name in ("id", "title", "place", "rule", "reads")}
        for method, kind in rules["methods"].items():
            own = common if kind == COMMON else str(kind)
            for measure in [""] if claim["id"] == "C4" else rules["measures"]:
                try:
                    found = _JUDGES[claim["id"]](_Case(claim, method, own, measure, common, rows, langspec, overlaps))
                except _Missing as reason:
                    found = Finding(NOT_RUN, str(reason))
                named = {"method": method, "budget": own, "measure": measure, "verdict": found.verdict}
                verdicts.append({**words, **named, "numbers": found.numbers, "detail": found.detail})
    return verdicts


def write_claims(path: Path, verdicts: Sequence[Mapping[str, Any]], *, profile: str) -> None:
    """Write verdicts to a JSON file."""
    write_json(path, {"schema": SCHEMA, "profile": profile, "verdicts": [dict(item) for item in verdicts]})


def read_claims(path: Path) -> list[dict[str, Any]]:
    """Verdicts written by `write_claims`."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CraneError(f"{path}: is not a file of verdicts (expected schema {SCHEMA!r})")
    return value["verdicts"]


def case_label(item: Mapping[str, Any], separator: str) -> str:
    """Method and measure of a verdict."""
    measure = METRIC_LABELS.get(item["measure"], item["measure"]).lower()
    return method_label(item["method"], item["budget"]) + (separator + measure if measure else "")


def verdict_table(verdicts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Verdicts with one row per claim and one column per method and measure.

    A claim without a measure has its one verdict per method in that method's first column.
    """
    headings = {(item["method"], item["measure"]): case_label(item, ": ") for item in verdicts if item["measure"]}
    first = dict(reversed(headings))
    found = {
        (item["id"], item["method"], item["measure"] or first.get(item["method"], "")): item["verdict"]
        for item in verdicts
    }
    table: dict[str, list[str]] = {
        "claim": list(dict.fromkeys(item["id"] for item in verdicts)),
        "statement": list(dict.fromkeys(item["title"] for item in verdicts)),
    }
    for (method, measure), heading in headings.items():
        table[heading] = [found.get((claim, method, measure), "") for claim in table["claim"]]
    return pd.DataFrame(table)


def not_run(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line with the reason for every verdict that could not be reached."""
    missing = [item for item in verdicts if item["verdict"] == NOT_RUN]
    return [f"{item['id']}, {case_label(item, ', ')}: {item['detail']}" for item in missing]
