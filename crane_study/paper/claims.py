"""Verdicts on the paper's claims, by the rules of ``expected/claims.yaml``.

Every rule is judged separately for each method and measure, and only directions are judged. What a rule asks for is
that some differences are above 0. It is reproduced where the simultaneous 95 % intervals of all of them are above 0,
not reproduced where one is wholly below, and undecided otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_study import ROOT
from crane_study.labels import METRIC_LABELS, language_name, method_label, ordered_languages
from crane_study.measure.rows import CHANCE, pick, tidy
from crane_study.paper import read_rules
from crane_study.uncertainty.bootstrap import LEVEL, Resampled, interval
from crane_study.uncertainty.intervals import langspec_draws, role_scores
from crane_study.uncertainty.overlap import SMALLEST_P
from crane_study.uncertainty.permutation import p_value_against

REPRODUCED, NOT_REPRODUCED, UNDECIDED = "REPRODUCED", "NOT REPRODUCED", "UNDECIDED"
NOT_APPLICABLE, NOT_RUN = "NOT APPLICABLE", "NOT RUN"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_APPLICABLE, NOT_RUN)
RULES_SCHEMA = "crane.claim-rules/2"
RULES = ROOT / "expected" / "claims.yaml"
COMMON = "common"


class _Missing(Exception):
    """Reason why a claim cannot be judged."""


class _Guessing(Exception):
    """Reason why an accuracy says nothing: the unmasked model has none that a mask could take away."""


@dataclass(frozen=True)
class Results:
    """Results that the claims are judged by; those that were not measured are absent.

    `scores` are the resampled scores of all masks by model and measure, `overlaps` and `reliability` the neurons shared
    by the sets of two languages, and by a language's sets of two parts of its documents (`make_reliability`).
    """

    scores: Mapping[tuple[str, str], Resampled] = field(default_factory=dict)
    overlaps: pd.DataFrame | None = None
    reliability: pd.DataFrame | None = None


class Contrast(NamedTuple):
    """A difference that a rule asks to be above 0: as measured, and under resampling (B,)."""

    value: float
    draws: np.ndarray


@dataclass(frozen=True)
class Finding:
    """A verdict, the numbers behind it, and a sentence made of them."""

    verdict: str
    detail: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Case:
    """One claim for one method and measure: its rule, the set's and the common budget, and the results."""

    rule: Mapping[str, Any]
    method: str
    budget: str
    measure: str
    common: str
    results: Results

    @property
    def words(self) -> str:
        """Name of the measure within a sentence."""
        return METRIC_LABELS[self.measure].lower()

    @property
    def random(self) -> tuple[str, str]:
        """Random sets that match the judged sets in every layer and site."""
        return f"random_like_{self.method}", self.budget


def simultaneous(differences: Sequence[Contrast]) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals that hold for all differences together with 95 % (Bonferroni): low and high of each."""
    tail = (1 - LEVEL) / 2 / len(differences)
    draws = np.stack([difference.draws for difference in differences], axis=1)
    low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def decide(differences: Sequence[Contrast]) -> str:
    """Verdict on the rule that all differences are above 0."""
    low, high = simultaneous(differences)
    if (low > 0).all():
        return REPRODUCED
    return NOT_REPRODUCED if (high <= 0).any() else UNDECIDED


class _Masks:
    """Scores of the masks of one model by one measure, and what each set of masks costs every language."""

    def __init__(self, case: _Case, model: str) -> None:
        found = case.results.scores.get((model, case.measure))
        if found is None:
            raise _Missing(f"there is no {case.words} of the {model} model")
        if len(found.languages) < 2:
            raise _Missing(f"the {case.words} of the {model} model is there for one language, two are needed")
        if not (found.unmasked > 0).all():
            raise _Missing(f"an unmasked {case.words} of the {model} model is not positive")
        lowest, chance = interval(found.unmasked_draws)[0], CHANCE.get(case.measure, 0.0)
        guessed = [k for k, low in zip(found.languages, lowest, strict=True) if low <= chance]
        if guessed:
            raise _Guessing(
                f"A mask has nothing to take away: the {case.words} of the unmasked {model} model is not clearly above "
                f"that of guessing in {', '.join(map(language_name, ordered_languages(guessed)))}"
            )
        self.found, self._model, self._words = found, model, case.words
        self.languages = ordered_languages(found.languages)
        self._f1 = langspec_draws(found)

    def places(self, sets: tuple[str, str], *, selected_on: str = "base") -> dict[str, np.ndarray]:
        """Places of the masks of a method at a budget by language, one for each draw of a random set."""
        masks = self.found.masks
        chosen = pick(tidy(masks), method=sets[0], budget=sets[1], selected_on=selected_on)
        places = {code: chosen.index[chosen["masked_language"] == code].to_numpy() for code in self.languages}
        lacking = [language_name(code) for code, found in places.items() if not len(found)]
        if lacking:
            where = f"the {self._model} model with the {selected_on} model's sets masked"
            raise _Missing(f"there is no {self._words} of {where}: {method_label(*sets)}, {lacking[0]}")
        return places

    def lost(self, places: np.ndarray, language: str) -> Contrast:
        """Share of its unmasked score that a language loses, mean over masks."""
        at = self.found.languages.index(language)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = 1 - self.found.draws[:, places, at].mean(axis=1) / self.found.unmasked_draws[:, at]
        return Contrast(float(1 - self.found.measured[places, at].mean() / self.found.unmasked[at]), drawn)

    def f1(self, sets: tuple[str, str], *, selected_on: str = "base") -> Contrast:
        """LangSpec-F1, mean over languages and draws."""
        groups = self.places(sets, selected_on=selected_on).values()
        value, draws = self._f1
        means = [(value[places].mean(), draws[:, places].mean(axis=1)) for places in groups]
        return Contrast(float(np.mean([mean for mean, _ in means])), np.mean([drawn for _, drawn in means], axis=0))


def _minus(first: Contrast, second: Contrast, *, times: float = 1.0) -> Contrast:
    """First minus `times` the second, on the same resamples."""
    return Contrast(first.value - times * second.value, first.draws - times * second.draws)


def _limits(difference: Contrast, *, among: int = 1) -> dict[str, float]:
    """A difference and its interval, simultaneous with that of `among` - 1 others."""
    low, high = simultaneous([difference] * among)
    return {"difference": difference.value, "low": float(low[0]), "high": float(high[0])}


def _damage(case: _Case, masks: _Masks) -> tuple[list[Contrast], dict[str, Any], str]:
    """Differences, numbers and words of: each masked language loses a positive share, and more than every other."""
    differences, parts = [], []
    found: dict[str, dict[str, Any]] = {}
    count = len(masks.languages) ** 2
    for masked, places in masks.places((case.method, case.budget)).items():
        lost = {code: masks.lost(places, code) for code in masks.languages}
        own = lost.pop(masked)
        worst = max((one.value, code) for code, one in lost.items())[1]
        here = [own, *(_minus(own, other) for other in lost.values())]
        numbers = {"own": own.value, "worst_other": worst, "worst_other_drop": lost[worst].value}
        found[masked] = numbers | {"holds": all(one.value > 0 for one in here)}
        limits = _limits(_minus(own, lost[worst]), among=count)
        found[masked] |= limits
        parts.append(
            f"{language_name(masked)} {own.value:.1%} (worst other: {language_name(worst)} {lost[worst].value:.1%}, "
            f"difference {limits['low']:.1%} to {limits['high']:.1%})"
        )
        differences += here
    satisfied = sum(numbers["holds"] for numbers in found.values())
    detail = (
        f"Share of {case.words} lost by the masked language: {'; '.join(parts)}. "
        f"As measured it loses most in {satisfied} of {len(found)} cases."
    )
    return differences, {"languages": len(found), "satisfied": satisfied, "relative_drop": found}, detail


def _judge_damage(case: _Case) -> Finding:
    """C1: with its set masked, each language loses the largest share."""
    differences, numbers, detail = _damage(case, _Masks(case, "base"))
    return Finding(decide(differences), detail, numbers)


def damage_verdict(found: Resampled, *, method: str, budget: str) -> str:
    """Verdict by the rule of C1 on any sets of a method at a budget, by the measure of `found`."""
    case = _Case({}, method, budget, found.metric, budget, Results({("base", found.metric): found}))
    return decide(_damage(case, _Masks(case, "base"))[0])


def _judge_preserved(case: _Case) -> Finding:
    """C1b: no other language loses more than under random sets of equal size, or than a stated share."""
    masks, most = _Masks(case, "base"), float(case.rule["at_most"])
    own, random = masks.places((case.method, case.budget)), masks.places(case.random)
    differences, parts = [], []
    found: dict[str, dict[str, Any]] = {}
    for masked in masks.languages:
        others = [code for code in masks.languages if code != masked]
        lost = {code: masks.lost(own[masked], code) for code in others}
        at_random = {code: masks.lost(random[masked], code) for code in others}
        worst = max((one.value, code) for code, one in lost.items())[1]
        for code in others:
            chance = at_random[code]
            allowed = Contrast(max(chance.value, most), np.maximum(chance.draws, most))
            differences.append(_minus(allowed, lost[code]))
        found[masked] = {"worst_other": worst, "lost": lost[worst].value, "lost_at_random": at_random[worst].value}
        parts.append(
            f"{language_name(worst)} {lost[worst].value:.1%} with {language_name(masked)} masked "
            f"({at_random[worst].value:.1%} under random sets)"
        )
    detail = f"Largest share of {case.words} that another language loses: {'; '.join(parts)}. "
    detail += f"Allowed is what random sets of equal size take, or {most:.0%}."
    return Finding(decide(differences), detail, {"others": found})


def _judge_rival(case: _Case) -> Finding:
    """C2: mean LangSpec-F1 above LAPE's at an equal number of killed neurons, where random sets are not above it."""
    masks = _Masks(case, "base")
    budget = case.rule["equal"][case.method]
    lape = masks.f1(("lape", case.common if budget == COMMON else budget))
    own, random = masks.f1((case.method, case.budget)), masks.f1(case.random)
    difference, by_chance = _minus(own, lape), _minus(random, lape)
    verdict, passes = decide([difference]), decide([by_chance]) == REPRODUCED
    numbers = {"own": own.value, "lape": lape.value, **_limits(difference), "random": random.value}
    numbers |= {"random_low": _limits(by_chance)["low"], "random_high": _limits(by_chance)["high"]}
    detail = (
        f"Mean LangSpec-F1 by {case.words}: {own.value:.3f}, LAPE with as many killed neurons {lape.value:.3f} "
        f"(difference {numbers['low']:.3f} to {numbers['high']:.3f}); random sets of equal size {random.value:.3f}"
        f"{', which passes the rule, too' if passes else ''}."
    )
    return Finding(NOT_REPRODUCED if passes and verdict == REPRODUCED else verdict, detail, numbers)


def _judge_random(case: _Case) -> Finding:
    """C3: mean LangSpec-F1 above random sets matched to the set in every layer and site, by a permutation test."""
    masks = _Masks(case, "base")
    found, places = masks.found, [masks.places(sets) for sets in ((case.method, case.budget), case.random)]
    own, random = (found.masks.loc[np.concatenate(list(by_language.values()))] for by_language in places)
    p = p_value_against(own, random, role_scores(found), languages=found.languages)
    score, values = masks.f1((case.method, case.budget)).value, langspec_draws(found)[0]
    by_draw = pd.Series(values[random.index]).groupby(random["random_seed"].to_numpy()).mean()
    mean, lowest, highest = float(by_draw.mean()), float(by_draw.min()), float(by_draw.max())
    below, minimum = int((by_draw < score).sum()), int(case.rule["minimum_draws"])
    numbers = {"own": score, "random_mean": mean, "random_lowest": lowest, "random_highest": highest}
    numbers |= {"draws": len(by_draw), "draws_below": below, "p_value": p}
    detail = (
        f"Mean LangSpec-F1 by {case.words}: {score:.3f}, above {below} of {len(by_draw)} random draws "
        f"({lowest:.3f} to {highest:.3f}, mean {mean:.3f}), p = {p:.2g}."
    )
    if not np.isfinite(p):
        raise _Missing("a LangSpec-F1 of the random draws is missing")
    if len(by_draw) < minimum:
        return Finding(UNDECIDED, f"{detail} The rule needs {minimum} draws (selection.random_draws).", numbers)
    significant = p < float(case.rule["significance"])
    return Finding(REPRODUCED if significant else NOT_REPRODUCED, detail, numbers)


def _judge_transfer(case: _Case) -> Finding:
    """C5: the rule of C1 on the chat model, and more specific than random sets and half as specific as its own sets."""
    masks, least = _Masks(case, "chat"), float(case.rule["at_least"])
    differences, numbers, detail = _damage(case, masks)
    if decide(differences) == NOT_REPRODUCED:
        return Finding(NOT_REPRODUCED, detail, numbers)
    sets = (case.method, case.budget)
    own, random, chat = masks.f1(sets), masks.f1(case.random), masks.f1(sets, selected_on="chat")
    differences += [_minus(own, random), _minus(own, chat, times=least)]
    numbers |= {"own": own.value, "random": random.value, "selected_on_chat": chat.value}
    detail += (
        f" Mean LangSpec-F1 on the chat model {own.value:.3f}, random sets of equal size {random.value:.3f}, sets "
        f"selected on the chat model {chat.value:.3f}."
    )
    return Finding(decide(differences), detail, numbers)


def _judge_overlaps(case: _Case) -> Finding:
    """C4: every pair of languages shares more neurons than chance."""
    overlaps = case.results.overlaps
    if overlaps is None or overlaps.empty:
        raise _Missing("there are no overlaps of neuron sets")
    needed = ["model", "method", "budget", "language_a", "language_b", "shared", "share_of_a", "p_value"]
    frame = tidy(overlaps, needed=needed)
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
        pairs[f"{a}-{b}"] = {"shared": int(row["shared"]), "share_of_first": share, "p_value": p_value}
        numbers = {f"{new}_share_of_first": float(row[old]) for old, new in _CHANCE.items() if old in frame}
        pairs[f"{a}-{b}"] |= numbers
        chance = f", by chance {numbers['expected_share_of_first']:.1%}" if numbers else ""
        p_text = f"p < {SMALLEST_P:g}" if p_value <= SMALLEST_P else f"p = {p_value:.2g}"
        parts.append(f"{language_name(a)} and {language_name(b)} {share:.1%} of the first{chance}, {p_text}")
    significance = float(case.rule["significance"])
    above = sum(pair["p_value"] < significance for pair in pairs.values())
    detail = f"Shared neurons: {'; '.join(parts)}. "
    detail += f"More than chance at p < {significance:g} in {above} of {len(pairs)} pairs."
    verdict = REPRODUCED if above == len(pairs) else NOT_REPRODUCED
    return Finding(verdict, detail, {"pairs": pairs, "above_chance": above})


_CHANCE = {"expected_share_of_a": "expected", "chance_low": "low", "chance_high": "high"}
_JUDGES: dict[str, Callable[[_Case], Finding]] = {
    "C1": _judge_damage,
    "C1b": _judge_preserved,
    "C2": _judge_rival,
    "C3": _judge_random,
    "C4": _judge_overlaps,
    "C5": _judge_transfer,
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


def not_testable(method: str, budget: str, reliability: pd.DataFrame | None, *, significance: float) -> str:
    """Reason why a rule cannot be tested here, empty if it can: the sets of two halves overlap no more than chance.

    The largest disjoint parts of the documents that were compared count, in every language.
    """
    if reliability is None or reliability.empty:
        return ""
    frame = tidy(reliability, needed=["documents_share", "method", "budget", "language", "share_of_a", "p_value"])
    frame = pick(frame, method=method, budget=budget)
    frame = frame[frame["documents_share"] == frame["documents_share"].max()]
    failed = frame[~(frame["p_value"] < significance)]
    if failed.empty:
        return ""
    parts = [
        f"{language_name(row.language)} {row.share_of_a:.1%}, by chance {row.expected_share_of_a:.1%}"
        for row in failed.itertuples()
    ]
    return (
        f"Not testable here: sets of disjoint halves of the documents share no more than chance ({'; '.join(parts)})."
    )


def judge(results: Results, *, budget: str | float, rules: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Judge every claim for every method and measure; claims for which results are missing are NOT RUN.

    Returns one entry per claim, method and measure (empty for C4, which has none), with the words of its rule, verdict,
    numbers and detail: a sentence made of the numbers, or the reason for NOT RUN. NOT APPLICABLE replaces a verdict
    that could not come out otherwise.
    """
    rules = load_rules() if rules is None else rules
    common = str(budget)
    verdicts = []
    for claim in rules["claims"]:
        words = {name: claim[name] for name in ("id", "title", "place", "rule", "reads")}
        for method, kind in rules["methods"].items():
            own = common if kind == COMMON else str(kind)
            reason = claim.get("not_applicable", {}).get(method, "")
            reason = reason or not_testable(
                method, own, results.reliability, significance=float(rules["reliability"]["significance"])
            )
            for measure in [""] if claim["id"] == "C4" else rules["measures"]:
                try:
                    found = _JUDGES[claim["id"]](_Case(claim, method, own, measure, common, results))
                except _Missing as missing:
                    found = Finding(NOT_RUN, str(missing))
                except _Guessing as guessing:
                    found = Finding(NOT_APPLICABLE, f"{guessing}.")
                if reason and found.verdict != NOT_RUN:
                    found = replace(found, verdict=NOT_APPLICABLE, detail=f"{reason} {found.detail}")
                named = {"method": method, "budget": own, "measure": measure, "verdict": found.verdict}
                verdicts.append({**words, **named, "numbers": found.numbers, "detail": found.detail})
    return verdicts
