"""The judges behind the claims: each takes frames and gives a verdict, the numbers it rests on and a sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.output.frames import budget_text, effects, pick, tidy
from crane_lib.output.style import METRIC_LABELS, language_name, method_label, ordered_languages
from crane_lib.overlap import SMALLEST_P

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
