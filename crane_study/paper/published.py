"""The paper's published numbers as tidy result rows, their LangSpec-F, and the claims judged by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from crane_lib.methods import TOP_ROWS
from crane_lib.specificity import LangSpec, langspec
from crane_study import ROOT
from crane_study.frames import read_frame
from crane_study.labels import language_name
from crane_study.measure.rows import langspec_rows, pick
from crane_study.paper.claims import NOT_REPRODUCED, REPRODUCED, Results, judge, load_rules
from crane_study.paper.tolerances import Tolerances, load_tolerances
from crane_study.uncertainty.bootstrap import RESAMPLES, Resampled
from crane_study.uncertainty.open_ended import FORMS, METRIC

PUBLISHED = ROOT / "expected" / "published.csv"
SECOND_RUN = ROOT / "expected" / "published_second_run.csv"  # of the released rule, on another sample of documents
ACCURACY: Final = "accuracy"
LANGUAGE_OF_TASK = {"MMLU": "en", "C-Eval": "zh", "Belebele-vi": "vi"}
TASK_OF_LANGUAGE = {language: task for task, language in LANGUAGE_OF_TASK.items()}
FORM: dict[str, Any] = dict(zip(("beta", "form"), FORMS["released"], strict=True))  # of F for open answers
MASKED = ["selected_on", "method", "budget", "masked_language"]
ALL = "all"  # evaluation languages of a LangSpec-F1
RANDOM = "random"  # a random set, in the place of a language
RELEASED_CONTROL = "random_like_released"
_OPEN_ENDED = "open-ended-"
_OVERLAP = "overlap with "
_METHODS = {"none": "none", "CRANE": "kurtosis", "LAPE": "lape", "random (layer-matched)": "random_like_released"}
_TOP_PERCENT = "CRANE top 1%"
_MODELS = {"Llama-2-7b-hf": "base", "Llama-2-7b-chat-hf": "chat"}

MaskKey = tuple[str, ...]  # a mask by the columns of `MASKED`
Scores = dict[str, float]  # by language


def _read(path: Path = PUBLISHED) -> pd.DataFrame:
    """The published numbers, with models, methods and budgets named as in result rows."""
    frame = read_frame(path)
    top, masked = frame["method"] == _TOP_PERCENT, frame["masked_language"] != ""
    return frame.assign(
        model=frame["model"].map(_MODELS),
        paper_method=frame["method"],
        method=frame["method"].mask(top, "CRANE").map(_METHODS),
        budget=masked.map({True: "published", False: ""}).mask(top, TOP_ROWS),
        value=frame["value"].astype(float),
    )


def _rows(frame: pd.DataFrame, *, languages: pd.Series, task: str, metric: str) -> pd.DataFrame:
    """Tidy result rows, without the number of questions and with an unknown masked share of 0."""
    random = frame["method"].str.startswith("random").map({True: 0, False: -1})
    rows = frame[["model", *MASKED, "value"]].assign(profile="published", random_seed=random, masked_share=0.0)
    return rows.assign(evaluation_language=languages, task=task, metric=metric).reset_index(drop=True)


def published_rows() -> pd.DataFrame:
    """The published benchmark accuracies as tidy result rows; each language is evaluated by its own benchmark."""
    frame = _read()
    frame = frame[frame["task"].isin(LANGUAGE_OF_TASK) & frame["method"].notna()]
    return _rows(frame, languages=frame["task"].map(LANGUAGE_OF_TASK), task="nlu", metric=ACCURACY)


def published_scores() -> pd.DataFrame:
    """The published judge scores of open-ended answers (chat model) as tidy result rows."""
    frame = _read()
    frame = frame[frame["task"].str.startswith(_OPEN_ENDED)]
    languages = frame["task"].str.removeprefix(_OPEN_ENDED)
    return _rows(frame, languages=languages, task="open_ended", metric=METRIC)


def published_overlaps() -> pd.DataFrame:
    """The published overlaps of the released rule's sets; language_b may be ``random``, a random set."""
    frame = _read()
    frame = frame[frame["task"].str.startswith(_OVERLAP)]
    frame = frame.assign(language_b=frame["task"].str.removeprefix(_OVERLAP))
    names = {"masked_language": "language_a", "value": "share_of_a"}
    return frame.rename(columns=names)[["language_a", "language_b", "share_of_a"]].reset_index(drop=True)


def published_runs() -> pd.DataFrame:
    """The authors' two runs of the released rule on the base model, side by side: accuracies and LangSpec-F1.

    Columns: method, masked_language, evaluation_language (`ALL` for LangSpec-F1), metric, first_run and second_run, NaN
    where that value is not at hand.
    """
    keys = ["model", *MASKED, "task", "metric"]
    runs = _read().merge(_read(SECOND_RUN)[[*keys, "value"]], on=keys, suffixes=("", "_again"), validate="one_to_one")
    runs = runs.rename(columns={"value": "first_run", "value_again": "second_run"})
    runs["evaluation_language"] = runs["task"].map(LANGUAGE_OF_TASK).fillna(ALL)
    return runs[["method", "masked_language", "evaluation_language", "metric", "first_run", "second_run"]]


def selection_noise(tolerances: Tolerances) -> float:
    """Standard deviation s of a masked accuracy over samples of the documents that the released rule selects from.

    It is the most likely one by the two published runs, whose difference on a benchmark of n questions is taken as
    normal with variance 2 (s^2 + p (1 - p) / n). Of a second value that is not at hand, it counts how likely it is to
    lie within the binomial errors of two measurements, for that is known.
    """
    runs = published_runs().query("metric == @ACCURACY")
    places = zip(runs["evaluation_language"], runs["first_run"], strict=True)
    reach = np.array([tolerances.accuracy(TASK_OF_LANGUAGE[code], value, masked=True) for code, value in places])
    difference = (runs["second_run"] - runs["first_run"]).to_numpy()

    def surprise(noise: float) -> float:
        deviation = np.hypot(reach / tolerances.z, np.sqrt(2) * noise)
        within = np.log(2 * norm.cdf(reach / deviation) - 1)
        return -float(np.where(np.isnan(difference), within, norm.logpdf(difference, scale=deviation)).sum())

    return float(minimize_scalar(surprise, bounds=(0.0, 0.5), method="bounded").x)


def published_langspec(rows: pd.DataFrame) -> pd.DataFrame:
    """LangSpec rows of the published accuracies by the paper's formula, which does not correct them for chance."""
    return langspec_rows(rows, measure=ACCURACY, corrected=False)


def masks_of(rows: pd.DataFrame) -> Iterator[tuple[MaskKey, Scores, Scores]]:
    """Yield the scores without a mask and under each mask and draw, if the mask was evaluated in every language."""

    def scores(part: pd.DataFrame) -> Scores:
        return {row.evaluation_language: float(row.value) for row in part.itertuples()}

    before = scores(rows[rows["masked_language"] == ""])
    for key, part in rows[rows["masked_language"] != ""].groupby([*MASKED, "random_seed"], sort=False):
        after = scores(part)
        if set(after) == set(before) and len(before) > 1:
            yield tuple(key[:-1]), before, after


def _by_mask(rows: pd.DataFrame, **form: Any) -> dict[MaskKey, list[LangSpec]]:
    """LangSpec of every mask and draw of one model and metric; `form` as for `langspec`."""
    found: dict[MaskKey, list[LangSpec]] = {}
    for key, before, after in masks_of(rows):
        found.setdefault(key, []).append(langspec(before, after, target=key[3], **form))
    return found


def langspec_by_mask(rows: pd.DataFrame, **form: Any) -> dict[MaskKey, float]:
    """LangSpec-F of every mask of one model and metric, mean over draws, by the paper's formula."""
    return {key: float(np.mean([one.f for one in draws])) for key, draws in _by_mask(rows, **form).items()}


def recomputed_langspec() -> pd.DataFrame:
    """LangSpec-F computed from the published scores, with precision and recall, and the published or stated values.

    Benchmarks: F1, mean of the other drops. Open-ended answers: the released form with beta 4, mean of the others.
    """
    rows = published_rows()
    by_accuracy = {model: _by_mask(part) for model, part in rows.groupby("model")}
    by_score = _by_mask(published_scores(), **FORM)
    stated = _read()
    records = []
    for row in stated[stated["metric"].str.startswith("langspec_f")].itertuples():
        of_benchmarks = row.metric == "langspec_f1"
        (found,) = (by_accuracy[row.model] if of_benchmarks else by_score)[tuple(getattr(row, name) for name in MASKED)]
        place = "benchmarks" if of_benchmarks else "open-ended generation"
        values = (found.precision, found.recall, row.value, found.f, found.f - row.value)
        records.append((place, row.model, row.paper_method, row.masked_language, *values))
    columns = ["place", "model", "paper_method", "masked_language", "precision", "recall"]
    columns += ["stated", "recomputed", "difference"]
    return pd.DataFrame(records, columns=columns)


def published_resampled(model: str, *, tolerances: Tolerances) -> Resampled:
    """The published accuracies of a model, drawn again with their binomial errors.

    Masked ones also vary with the sample of documents that the units were selected on (`selection_noise`). Only the
    numbers of questions are known, so every accuracy is drawn by itself: pairs of them on the same questions lie closer
    together than this says.
    """
    rows = pick(published_rows(), model=model)
    languages = sorted(set(rows["evaluation_language"]))
    table = rows.set_index([*MASKED, "random_seed", "evaluation_language"])["value"].unstack()[languages]  # noqa: PD010
    items = np.array([tolerances.benchmarks[TASK_OF_LANGUAGE[language]].items for language in languages])
    values, generator = table.to_numpy(), np.random.default_rng(0)
    draws = generator.binomial(items, values, size=(RESAMPLES, *values.shape)) / items
    masks = table.index.to_frame(index=False).assign(profile="published", model=model, masked_share=0.0)
    bare = (masks["masked_language"] == "").to_numpy()
    (place,) = np.flatnonzero(bare)
    draws[:, ~bare] += generator.normal(scale=selection_noise(tolerances), size=draws[:, ~bare].shape)
    # The one control that the paper has is that of the released code.
    masks["method"] = masks["method"].replace(RELEASED_CONTROL, "random_like_kurtosis")
    chosen = masks[~bare].reset_index(drop=True)
    return Resampled(ACCURACY, tuple(languages), chosen, values[place], values[~bare], draws[:, place], draws[:, ~bare])


def overlap_chances(overlaps: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Share of a first language's set expected in a second's by chance: (first, second) -> share.

    Published is the share of the English set in a random set with its counts in every layer and site. A second set of
    another size has that share times its size relative to the English one, which the two directions of an overlap give:
    both count the same shared units. That its units lie in the same layers is an assumption.
    """
    shares = overlaps.set_index(["language_a", "language_b"])["share_of_a"]
    origin = next(first for first, second in shares.index if second == RANDOM)
    sizes = {origin: 1.0}
    sizes |= {
        other: float(shares[origin, other] / shares[other, origin])
        for first, other in shares.index
        if first == origin and other != RANDOM
    }
    at_random = float(shares[origin, RANDOM])
    return {pair: at_random * sizes[pair[1]] for pair in shares.index if pair[1] != RANDOM}


def judge_published() -> list[dict[str, Any]]:
    """Verdicts of the claims' rules on the published numbers of the released rule, by accuracy.

    The published overlaps have no counts, so C4 is judged by whether every share is above its chance.
    """
    tolerances = load_tolerances()
    rules = {**load_rules(), "methods": {"kurtosis": "published"}, "measures": [ACCURACY]}
    scores = {(model, ACCURACY): published_resampled(model, tolerances=tolerances) for model in ("base", "chat")}
    found = judge(Results(scores), budget=0.1, rules=rules)
    overlaps = published_overlaps()
    chances, shares = overlap_chances(overlaps), overlaps.set_index(["language_a", "language_b"])["share_of_a"]
    above = sum(shares[pair] > chance for pair, chance in chances.items())
    parts = [
        f"{language_name(a)} and {language_name(b)} {shares[a, b]:.1%} of the first, by chance {chance:.1%}"
        for (a, b), chance in chances.items()
    ]
    for item in found:
        if item["id"] == "C4":
            item["verdict"] = REPRODUCED if above == len(chances) else NOT_REPRODUCED
            item["detail"] = f"Shared units: {'; '.join(parts)}. More than chance in {above} of {len(chances)} shares."
    return found
