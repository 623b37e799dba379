"""Verdicts on the paper's claims, by the rules of ``expected/claims.yaml``.

Every rule is judged for each method and measure by itself. Only directions are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_lib.overlap import SMALLEST_P
from crane_study import ROOT
from crane_study.labels import METRIC_LABELS, language_name, method_label, ordered_languages
from crane_study.measure.rows import budget_text, effects, pick, tidy

REPRODUCED, NOT_REPRODUCED, NOT_RUN = "REPRODUCED", "NOT REPRODUCED", "NOT RUN"


@dataclass(frozen=True)
class Finding:
    """A verdict, the numbers it rests on, and a sentence made of them."""

    verdict: str
    detail: str
    numbers: dict[str, Any] = field(default_factory=dict)


def _verdict(holds: bool) -> str:
    return REPRODUCED if holds else NOT_REPRODUCED


def _missing(reason: str) -> Finding:
    return Finding(NOT_RUN, reason)


def judge_damage(rows: pd.DataFrame | None, *, measure: str, method: str, budget: str, model: str) -> Finding:
    """C1 and C5: with a language's base-model set masked, it loses the largest share of its own score, in every case.

    Parameters
    ----------
    model : the masked model; the sets are those selected on the base model
    """
    if rows is None or rows.empty:
        return _missing("there are no result rows")
    frame = tidy(rows, needed=["model", "metric", "masked_language", "evaluation_language", "value"])
    scores = frame[(frame["model"] == model) & (frame["metric"] == measure)]
    unmasked = scores[scores["masked_language"] == ""]
    languages = ordered_languages(unmasked["evaluation_language"])
    words = METRIC_LABELS[measure].lower()
    if not languages:
        return _missing(f"there is no {words} of the {model} model without a mask")
    if len(languages) < 2:
        return _missing(f"the {words} of the {model} model is there for {len(languages)} language, two are needed")
    if not (unmasked["value"] > 0).all():
        return _missing(f"an unmasked {words} of the {model} model is not positive")
    lost = pick(effects(scores, metric=measure), selected_on="base", method=method, budget=budget)
    if lost.empty:
        return _missing(
            f"there is no {words} of the {model} model with base-model sets masked: {method_label(method, budget)}"
        )
    shares = lost.pivot_table(index="masked_language", columns="evaluation_language", values="relative_drop")
    shares = shares.reindex(index=languages, columns=languages)
    for masked, evaluated in np.argwhere(shares.isna().to_numpy()):
        pair = f"{language_name(languages[evaluated])} with the {language_name(languages[masked])} set masked"
        return _missing(f"the {model} model has no {words} of {pair}")
    numbers: dict[str, Any] = {"languages": len(languages), "satisfied": 0, "relative_drop": {}}
    parts = []
    for masked in languages:
        own, others = float(shares.loc[masked, masked]), shares.loc[masked].drop(masked)
        worst, most = str(others.idxmax()), float(others.max())
        holds = own > 0 and own > most
        numbers["satisfied"] += holds
        numbers["relative_drop"][masked] = {"own": own, "worst_other": worst, "worst_other_drop": most, "holds": holds}
        parts.append(f"{language_name(masked)} {own:.1%} (worst other: {language_name(worst)} {most:.1%})")
    satisfied = numbers["satisfied"]
    return Finding(
        _verdict(satisfied == len(languages)),
        f"Share of {words} lost on the {model} model by the masked language: "
        f"{'; '.join(parts)}. It loses most in {satisfied} of {len(languages)} cases.",
        numbers,
    )


def _draw_means(langspec: pd.DataFrame, *, measure: str, method: str, budget: str) -> pd.Series | str:
    """Mean over languages of LangSpec-F1 on the base model, a draw; or why it cannot be had."""
    frame = tidy(langspec, needed=["model", "selected_on", "method", "budget", "metric", "langspec_f1", "random_seed"])
    frame = pick(frame, model="base", selected_on="base", metric=measure)
    languages = set(frame["masked_language"])
    found = pick(frame, method=method, budget=budget)
    if found.empty:
        return f"no LangSpec-F1 by {METRIC_LABELS[measure].lower()} for {method_label(method, budget)}"
    for draw, part in found.groupby("random_seed"):
        values = part["langspec_f1"]
        if set(part["masked_language"]) != languages or len(part) != len(languages) or not np.isfinite(values).all():
            return f"{method_label(method, budget)}, draw {draw}: LangSpec-F1 is not there once for every language"
    return found.groupby("random_seed")["langspec_f1"].mean()


def judge_rival(langspec: pd.DataFrame | None, *, measure: str, method: str, budget: str, common: str) -> Finding:
    """C2: mean LangSpec-F1 above LAPE's as published, and above LAPE's with both at the common budget."""
    if langspec is None or langspec.empty:
        return _missing("there are no LangSpec rows")
    wanted = {
        "own": (method, budget),
        "lape_published": ("lape", "published"),
        "own_common": (method, common),
        "lape_common": ("lape", common),
    }
    numbers: dict[str, Any] = {"common_budget": budget_text(common)}
    for name, (which, at) in wanted.items():
        means = _draw_means(langspec, measure=measure, method=which, budget=at)
        if isinstance(means, str):
            return _missing(means)
        numbers[name] = float(means.mean())
    published = numbers["own"] > numbers["lape_published"]
    same = numbers["own_common"] > numbers["lape_common"]
    return Finding(
        _verdict(published and same),
        f"Mean LangSpec-F1 by {METRIC_LABELS[measure].lower()}: {numbers['own']:.3f} ({method_label(method, budget)}) "
        f"{'>' if published else 'is not above'} {numbers['lape_published']:.3f} (LAPE as published); both at "
        f"{float(common) * 100:g} %: {numbers['own_common']:.3f} {'>' if same else 'is not above'} "
        f"{numbers['lape_common']:.3f} (LAPE).",
        numbers,
    )


def judge_random(
    langspec: pd.DataFrame | None, *, measure: str, method: str, budget: str, minimum_draws: int
) -> Finding:
    """C3: mean LangSpec-F1 above that of every random draw matched to the set in every layer and site."""
    if langspec is None or langspec.empty:
        return _missing("there are no LangSpec rows")
    own = _draw_means(langspec, measure=measure, method=method, budget=budget)
    if isinstance(own, str):
        return _missing(own)
    random = _draw_means(langspec, measure=measure, method=f"random_like_{method}", budget=budget)
    if isinstance(random, str):
        return _missing(random)
    if len(random) < minimum_draws:
        return _missing(f"random draws: {len(random)}, at least {minimum_draws} are needed")
    score = float(own.mean())
    numbers: dict[str, Any] = {
        "own": score,
        "random_mean": float(random.mean()),
        "random_lowest": float(random.min()),
        "random_highest": float(random.max()),
        "draws": len(random),
        "draws_below": int((random < score).sum()),
    }
    return Finding(
        _verdict(numbers["draws_below"] == len(random)),
        f"Mean LangSpec-F1 by {METRIC_LABELS[measure].lower()}: {score:.3f}, above {numbers['draws_below']} of "
        f"{len(random)} random draws ({numbers['random_lowest']:.3f} to {numbers['random_highest']:.3f}, mean "
        f"{numbers['random_mean']:.3f}).",
        numbers,
    )


def judge_overlaps(overlaps: pd.DataFrame | None, *, method: str, budget: str, significance: float) -> Finding:
    """C4: every pair of languages shares more units than chance."""
    if overlaps is None or overlaps.empty:
        return _missing("there are no overlaps of neuron sets")
    needed = ["model", "method", "budget", "language_a", "language_b", "shared", "share_of_a", "p_value"]
    frame = tidy(overlaps, needed=needed)
    models = set(frame["model"])
    if len(models) > 1:
        frame = pick(frame, model="base")
    languages = ordered_languages([*frame["language_a"], *frame["language_b"]])
    frame = pick(frame, method=method, budget=budget)
    if frame.empty:
        return _missing(f"no overlaps of {method_label(method, budget)} sets")
    pairs: dict[str, Any] = {}
    parts = []
    for a, b in combinations(languages, 2):
        found = frame[(frame["language_a"] == a) & (frame["language_b"] == b)]
        if len(found) != 1 or not np.isfinite(found["p_value"].iloc[0]):
            return _missing(f"no single overlap of {a!r} with {b!r} for {method_label(method, budget)}")
        row = found.iloc[0]
        p_value, share = float(row["p_value"]), float(row["share_of_a"])
        expected = float(row.get("expected_share_of_a", np.nan))
        pairs[f"{a}-{b}"] = {"shared": int(row["shared"]), "share_of_first": share, "p_value": p_value}
        if np.isfinite(expected):
            pairs[f"{a}-{b}"]["expected_share_of_first"] = expected
        chance = f", by chance {expected:.1%}" if np.isfinite(expected) else ""
        p_text = f"p < {SMALLEST_P:g}" if p_value <= SMALLEST_P else f"p = {p_value:.2g}"
        parts.append(f"{language_name(a)} and {language_name(b)} {share:.1%} of the first{chance}, {p_text}")
    above = sum(pair["p_value"] < significance for pair in pairs.values())
    detail = (
        f"Shared units: {'; '.join(parts)}. More than chance at p < {significance:g} in {above} of {len(pairs)} pairs."
    )
    if method == "contrast":
        detail += (
            " Contrast gives a neuron a positive score in one language at most, so its sets are disjoint wherever the "
            "scores taken are positive: too few shared units are a property of this rule, not of the model."
        )
    return Finding(_verdict(above == len(pairs)), detail, {"pairs": pairs, "above_chance": above})


SCHEMA = "crane.claims/1"
RULES_SCHEMA = "crane.claim-rules/1"
RULES = ROOT / "expected" / "claims.yaml"
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
    rows, langspec, overlaps : tidy result rows, LangSpec rows, frame of `overlaps`; None or lacking
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
