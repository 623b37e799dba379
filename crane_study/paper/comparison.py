"""Our results compared with the paper's: values within a tolerance, or only directions and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.specificity import langspec
from crane_study.labels import language_name, ordered_languages
from crane_study.measure.rows import pick, tidy
from crane_study.paper.claims import NOT_RUN
from crane_study.paper.lape_list import PUBLISHED_LIST
from crane_study.paper.published import (
    ACCURACY,
    ALL,
    FORM,
    MASKED,
    RANDOM,
    TASK_OF_LANGUAGE,
    MaskKey,
    Scores,
    langspec_by_mask,
    masks_of,
    overlap_chances,
    published_overlaps,
    published_rows,
    published_runs,
    published_scores,
    selection_noise,
)
from crane_study.paper.tolerances import Tolerances
from crane_study.tables import in_study_order
from crane_study.uncertainty.open_ended import MEAN, METRIC

_NO_DIFFERENCE = "no clear difference"
UNKNOWN = "not known"  # of the authors' second run
CANNOT_TELL = "cannot tell"  # neither side shows a clear change
_WORDS = {-1: "falls", 0: "no clear change", 1: "rises"}
_NO_LANGUAGE = "none clearly"
_AGREEMENT = {("yes", "yes"): "yes"}
_AGREEMENT |= dict.fromkeys((("yes", "no"), ("yes", CANNOT_TELL)), "its score only")
_AGREEMENT |= dict.fromkeys((("no", "yes"), (CANNOT_TELL, "yes")), "loses most only")
_CHANCE = ["expected_share_of_a", "chance_low", "chance_high"]
_LABELS = ["method", "budget", "masked_language"]


@dataclass(frozen=True)
class Published:
    """Published scores of one model by one metric (accuracy or judge score), and the precision of such scores.

    The rows are tidy result rows with items, the number of questions; `form` is that of LangSpec-F on these scores;
    `selection` is the deviation of a masked score over selections by the released rule (`selection_noise`).
    """

    rows: pd.DataFrame
    metric: str
    form: Mapping[str, Any]
    tolerances: Tolerances
    selection: float = 0.0

    @classmethod
    def benchmarks(cls, model: str, tolerances: Tolerances, *, listed: bool = False) -> Published:
        """Accuracies of the base or the chat model; each language has one benchmark.

        Where the study masks the list of LAPE's authors (`listed`), the accuracies of LAPE are compared with it, and
        once more with LAPE as the study computes it.
        """
        rows = pick(published_rows(), model=model)
        if listed:
            rows = pd.concat([rows, pick(rows, method="lape").assign(method=PUBLISHED_LIST)], ignore_index=True)
        sizes = {language: tolerances.benchmarks[task].items for language, task in TASK_OF_LANGUAGE.items()}
        rows = rows.assign(items=rows["evaluation_language"].map(sizes).astype(float))
        return cls(rows, ACCURACY, {}, tolerances, selection_noise(tolerances))

    @classmethod
    def open_answers(cls, tolerances: Tolerances) -> Published:
        """Judge scores of the chat model's open-ended answers."""
        return cls(published_scores().assign(items=float(tolerances.judge.questions)), METRIC, FORM, tolerances)

    def tolerance(self, row: Any) -> float:
        """Tolerance of a value; `row` has published, evaluation_language, masked_language and our deviation."""
        if self.metric == METRIC:
            return self.tolerances.judge_score()
        task, masked = TASK_OF_LANGUAGE[row.evaluation_language], row.masked_language != ""
        deviation = float(np.hypot(np.nan_to_num(row.deviation), self._selections(row.method)))
        return self.tolerances.accuracy(task, row.published, masked=masked, deviation=deviation)

    def langspec_tolerance(self, before: Scores, after: Scores, mask: MaskKey) -> float:
        """Tolerance of LangSpec-F for published scores without and with a mask."""
        if self.metric == METRIC:
            return self.tolerances.open_langspec(before, after, target=mask[3], **self.form)
        given: dict[str, Any] = {"tasks": TASK_OF_LANGUAGE, "deviation": self._selections(mask[1])}
        return self.tolerances.langspec_f1(before, after, target=mask[3], **given)

    def _selections(self, method: str) -> float:
        """Deviation of the difference between two selections; known for the released rule only."""
        return float(np.sqrt(2)) * self.selection * (method == "kurtosis")

    def changes(self) -> pd.DataFrame:
        """Published changes, with the columns that directions are read from."""
        bare = self.rows["masked_language"] == ""
        before = self.rows[bare].set_index("evaluation_language")["value"]
        frame = self.rows[~bare].assign(unmasked=self.rows["evaluation_language"].map(before))
        pairs = zip(frame["unmasked"], frame["items"], strict=True)
        if self.metric == METRIC:
            noise = [self.tolerances.score_noise(items) for _unmasked, items in pairs]
        else:
            noise = [self.tolerances.accuracy_noise(unmasked, items) for unmasked, items in pairs]
        change = frame["value"] - frame["unmasked"]
        return frame.assign(change=change, clear=change.abs() > noise)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of all tables."""
    return in_study_order(frame, [name for name in [*_LABELS, "evaluation_language"] if name in frame])


def _within(frame: pd.DataFrame) -> list[str]:
    """Say for every row whether our value is within the tolerance; NOT RUN where there is none."""
    return [
        NOT_RUN if pd.isna(row.ours) else ("yes" if abs(row.difference) <= row.tolerance else "no")
        for row in frame.itertuples()
    ]


def _over_draws(rows: pd.DataFrame, *, model: str, metric: str) -> pd.DataFrame:
    """Our value for every mask of a model: mean and deviation over draws, and number of items."""
    keys = [*MASKED, "evaluation_language"]
    frame = pick(tidy(rows, needed=["model", *keys, "metric", "value"]), model=model, metric=metric)
    if "n" not in frame:
        frame["n"] = np.nan
    grouped = frame.groupby(keys, sort=False)
    table = grouped.agg(ours=("value", "mean"), deviation=("value", "std"), items=("n", "max")).reset_index()
    return table.fillna({"deviation": 0.0})


def compare_values(rows: pd.DataFrame, published: Published, *, model: str) -> pd.DataFrame:
    """Every published value and ours, of the paper's models on the paper's questions; missing ones are NOT RUN."""
    keys = [*MASKED, "evaluation_language"]
    table = published.rows[[*keys, "value"]].rename(columns={"value": "published"})
    table = table.merge(_over_draws(rows, model=model, metric=published.metric), how="left", on=keys)
    table["difference"] = table["ours"] - table["published"]
    table["tolerance"] = [published.tolerance(row) for row in table.itertuples()]
    table["within"] = _within(table)
    columns = [*_LABELS, "evaluation_language", "published", "ours", "difference", "tolerance", "within"]
    return _ordered(table[columns])


def compare_runs(published: Published, rows: pd.DataFrame | None) -> pd.DataFrame:
    """The authors' two runs of the released rule: their difference, the tolerance, and ours where `rows` compare.

    A LangSpec-F1 is over all evaluation languages. A value that the second run lacks is `UNKNOWN`.
    """
    by_mask = {key[3]: (key, before, after) for key, before, after in masks_of(published.rows) if key[1] == "kurtosis"}
    table = published_runs().assign(deviation=0.0)
    table["difference"] = table["second_run"] - table["first_run"]
    table["tolerance"] = [
        published.tolerance(row)
        if row.metric == ACCURACY
        else published.langspec_tolerance(*by_mask[row.masked_language][1:], by_mask[row.masked_language][0])
        for row in table.rename(columns={"first_run": "published"}).itertuples()
    ]
    within = _within(table.rename(columns={"second_run": "ours"}))
    table["within"] = [UNKNOWN if found == NOT_RUN else found for found in within]
    columns = ["masked_language", "evaluation_language", "metric", "first_run", "second_run"]
    if rows is not None:
        own = _over_draws(rows, model="base", metric=ACCURACY)
        keys = {key for key, _before, _after in by_mask.values()}
        values = {
            (row.masked_language, row.evaluation_language): row.ours
            for row in own.itertuples()
            if (row.selected_on, row.method, row.budget, row.masked_language) in keys
        }
        values |= {(key[3], ALL): f for key, f in accuracy_langspec(rows, model="base").items() if key in keys}
        pairs = zip(table["masked_language"], table["evaluation_language"], strict=True)
        table["ours"] = [values.get(pair, np.nan) for pair in pairs]
        columns.append("ours")
    return table[[*columns, "difference", "tolerance", "within"]]


def _directions(changes: pd.DataFrame) -> dict[MaskKey, tuple[str, str]]:
    """Direction of the masked language's score, and language that loses the largest share of its score, in words.

    `changes` has the columns of `MASKED`, evaluation_language, unmasked, change, and clear, whether it is no noise.
    """
    found = {}
    for key, part in changes.dropna(subset="change").groupby(MASKED, sort=False):
        by_language = part.set_index("evaluation_language")
        lost = (-by_language["change"] / by_language["unmasked"])[by_language["clear"] & (by_language["change"] < 0)]
        if key[3] in by_language.index:
            own = by_language.loc[key[3]]
            word = _WORDS[int(np.sign(own["change"])) * bool(own["clear"])]
            found[tuple(key)] = word, language_name(str(lost.idxmax())) if len(lost) else _NO_LANGUAGE
    return found


def compare_directions(changes: pd.DataFrame, published: Published) -> pd.DataFrame:
    """The direction of every published change, and ours, from `set_changes` of any model; values are not compared.

    A row says how the masked language's score changes (own: falls, rises, no clear change) and which language loses the
    largest share of its score (most). Ours are clear where the interval of the paired change leaves out 0. Of the
    published ones only the numbers of questions are known, so two errors count as if other questions had been asked.
    """
    ours = _directions(changes.assign(clear=(changes["low"] > 0) | (changes["high"] < 0)))
    records = []
    for key, stated in _directions(published.changes()).items():
        own, most = ours.get(key, (NOT_RUN, NOT_RUN))
        same = _same_direction(stated, (own, most)) if key in ours else NOT_RUN
        records.append((*key[1:], stated[0], own, stated[1], most, same))
    columns = [*_LABELS, "own_published", "own_ours", "most_published", "most_ours", "same_direction"]
    return _ordered(pd.DataFrame(records, columns=columns))


def _agree(stated: str, own: str, *, unclear: str) -> str:
    """Say whether two findings agree; where one of them is unclear, that cannot be told."""
    if unclear in (stated, own):
        return CANNOT_TELL
    return "yes" if stated == own else "no"


def _same_direction(stated: tuple[str, str], own: tuple[str, str]) -> str:
    """Say whether the masked language's change and the language that loses most agree, or that it cannot be told."""
    pairs = zip(stated, own, (_WORDS[0], _NO_LANGUAGE), strict=True)
    score, language = (_agree(first, second, unclear=unclear) for first, second, unclear in pairs)
    found = (score, language)
    return _AGREEMENT.get(found, "no" if "no" in found else CANNOT_TELL)


def accuracy_langspec(rows: pd.DataFrame, *, model: str) -> dict[MaskKey, float]:
    """Our LangSpec-F1 on accuracy of every mask of a model, mean over draws."""
    return langspec_by_mask(pick(tidy(rows), model=model, metric=ACCURACY))


def score_langspec(found: pd.DataFrame) -> dict[MaskKey, float]:
    """Our LangSpec-F (`open_langspec`) of the chat model's answers in the released form, of every mask with a value."""
    part = pick(found, model="chat", form="released")
    part = part[part["masked_language"] != MEAN].dropna(subset="langspec")
    return {tuple(getattr(row, name) for name in MASKED): float(row.langspec) for row in part.itertuples()}


def compare_langspec(ours: Mapping[MaskKey, float], published: Published) -> pd.DataFrame:
    """LangSpec-F from the published scores and ours (mean over draws), with difference and tolerance.

    The published one also has its precision and recall.
    """
    records = []
    for key, before, after in masks_of(published.rows):
        stated, found = langspec(before, after, target=key[3], **published.form), ours.get(key, np.nan)
        tolerance = published.langspec_tolerance(before, after, key)
        records.append((*key[1:], stated.precision, stated.recall, stated.f, found, found - stated.f, tolerance))
    columns = ["published_precision", "published_recall", "published", "ours", "difference", "tolerance"]
    table = pd.DataFrame(records, columns=[*_LABELS, *columns])
    return _ordered(table.assign(within=_within(table)))


def compare_ranks(ours: Mapping[MaskKey, float], published: Published) -> pd.DataFrame:
    """Order of the methods by mean LangSpec-F, published and ours; 1 is the most specific.

    Only sets that both sides have are ranked; NOT RUN where a mask is missing.
    """
    stated, found = _means(langspec_by_mask(published.rows, **published.form)), _means(ours)
    if PUBLISHED_LIST in {key[1] for key in stated}:  # the published LAPE has one rank
        stated = {key: value for key, value in stated.items() if key[1] != "lape"}
    shared = [key for key in stated if key in found]
    records = []
    for key in stated:
        first = second = same = NOT_RUN
        if key in shared:  # equal means share a rank
            first, second = (str(1 + sum(means[other] > means[key] for other in shared)) for means in (stated, found))
            same = "yes" if first == second else "no"
        records.append((*key[1:], first, second, same))
    columns = ["method", "budget", "rank_published", "rank_ours", "same_direction"]
    return _ordered(pd.DataFrame(records, columns=columns))


def _means(found: Mapping[MaskKey, float]) -> dict[MaskKey, float]:
    """Mean over languages of each method's sets at a budget, where every language is there."""
    languages = ordered_languages(key[3] for key in found)
    grouped: dict[MaskKey, list[float]] = {}
    for key, value in found.items():
        grouped.setdefault(key[:3], []).append(value)
    return {key: float(np.mean(values)) for key, values in grouped.items() if len(values) == len(languages)}


def compare_overlaps(
    overlaps: pd.DataFrame, *, with_random: float, tolerances: Tolerances, same_model: bool
) -> pd.DataFrame:
    """Published overlaps of the released rule's sets and ours, each compared with chance; values on one model only.

    For ours, chance is a set with the second language's number of units in every layer and site; for the published ones
    it follows from the one random set of the paper (`overlap_chances`). `with_random` is the expected share of our
    English set in a random one of the same counts.
    """
    keys = ["language_a", "language_b"]
    ours = overlaps[[*keys, "share_of_a", *_CHANCE]].rename(columns={"share_of_a": "ours"})
    table = published_overlaps().rename(columns={"share_of_a": "published"}).merge(ours, how="left", on=keys)
    random = table["language_b"] == RANDOM
    chances = overlap_chances(published_overlaps())
    table["published_chance"] = [chances.get((row.language_a, row.language_b), np.nan) for row in table.itertuples()]
    directions = []
    for row in table.itertuples():
        own = _than_chance(row.ours, row.chance_low, row.chance_high)
        stated = _than_chance(row.published, row.published_chance, row.published_chance)
        directions.append((stated, own, own if own == NOT_RUN else _agree(stated, own, unclear=_NO_DIFFERENCE)))
    names = ["published_direction", "our_direction", "same_direction"]
    table[names] = directions
    if not same_model:
        return table.loc[~random, [*keys, "published", "published_chance", *names]].reset_index(drop=True)
    table.loc[random, "ours"] = with_random
    table.loc[random, names] = ""  # this row is the chance that others are compared with
    table["difference"] = table["ours"] - table["published"]
    table["tolerance"] = tolerances.overlap_share
    table["within"] = _within(table)
    return table[
        [*keys, "published", "ours", "difference", "tolerance", "within", "published_chance", *_CHANCE, *names]
    ]


def _than_chance(share: float, low: float, high: float) -> str:
    if np.isnan([share, low, high]).any():
        return NOT_RUN
    if low <= share <= high:
        return _NO_DIFFERENCE
    return "more than chance" if share > high else "less than chance"
