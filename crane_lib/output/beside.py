"""Our results beside the paper's: values where the models and benchmarks are the paper's own, directions elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from crane_lib.output.frames import pick, tidy
from crane_lib.output.judging import NOT_RUN
from crane_lib.output.published import TASK_OF_LANGUAGE, published_rows, published_scores
from crane_lib.output.style import language_name
from crane_lib.output.tables import in_study_order
from crane_lib.output.tolerances import Tolerances

ACCURACY = "accuracy"
MASK = ["selected_on", "method", "budget", "masked_language"]
_WORDS = {-1: "falls", 0: "no clear change", 1: "rises"}
_NO_LANGUAGE = "none clearly"
Noise = Callable[[str, float, float], float]  # language, unmasked value, number of items -> smallest clear change


def _over_draws(rows: pd.DataFrame, *, model: str, metric: str) -> pd.DataFrame:
    """Our value of a metric for every mask of a model: mean, deviation over draws, number of items."""
    frame = tidy(rows, needed=["model", *MASK, "evaluation_language", "metric", "value"])
    frame = pick(frame, model=model, metric=metric)
    if "n" not in frame:
        frame["n"] = np.nan
    grouped = frame.groupby([*MASK, "evaluation_language"], sort=False)
    table = grouped.agg(ours=("value", "mean"), deviation=("value", "std"), items=("n", "max")).reset_index()
    return table.fillna({"deviation": 0.0})


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a comparison in the order of all tables."""
    names = ["method", "budget", "masked_language", "evaluation_language"]
    return in_study_order(frame, [name for name in names if name in frame])


def within(frame: pd.DataFrame) -> list[str]:
    """For every row whether our value lies within the tolerance, NOT RUN where there is none."""
    return [
        NOT_RUN if pd.isna(row.ours) else ("yes" if abs(row.difference) <= row.tolerance else "no")
        for row in frame.itertuples()
    ]


def published_of(model: str, *, open_ended: bool) -> pd.DataFrame:
    """Published scores of a model: benchmark accuracies, or judge scores of open answers."""
    frame = published_scores() if open_ended else published_rows()
    return frame[frame["model"] == model]


def values_beside(
    rows: pd.DataFrame, *, model: str, metric: str, tolerances: Tolerances, open_ended: bool = False
) -> pd.DataFrame:
    """Every published value beside ours.

    Parameters
    ----------
    rows : our tidy result rows, of the paper's models on the paper's benchmarks; what is missing is said
    open_ended : the judge scores instead of the benchmark accuracies

    Returns
    -------
    frame with method, budget, masked_language, evaluation_language, published, ours (mean over draws), difference,
    tolerance and within (yes, no or NOT RUN)
    """
    published = published_of(model, open_ended=open_ended)[[*MASK, "evaluation_language", "value"]]
    ours = _over_draws(rows, model=model, metric=metric)
    table = published.rename(columns={"value": "published"}).merge(ours, how="left", on=[*MASK, "evaluation_language"])
    table["difference"] = table["ours"] - table["published"]
    table["tolerance"] = [
        tolerances.judge_score()
        if open_ended
        else tolerances.accuracy(
            TASK_OF_LANGUAGE[row.evaluation_language],
            row.published,
            masked=row.masked_language != "",
            deviation=0.0 if np.isnan(row.deviation) else row.deviation,
        )
        for row in table.itertuples()
    ]
    table["within"] = within(table)
    columns = ["method", "budget", "masked_language", "evaluation_language"]
    return in_order(table[[*columns, "published", "ours", "difference", "tolerance", "within"]])


def noise_of_accuracy(tolerances: Tolerances) -> Noise:
    """Smallest clear change of an accuracy: two binomial errors, of `items` questions."""

    def noise(_language: str, unmasked: float, items: float) -> float:
        return tolerances.z * float(np.sqrt(2 * max(unmasked * (1 - unmasked), 0.0) / items))

    return noise


def noise_of_scores(tolerances: Tolerances) -> Noise:
    """Smallest clear change of a mean judge score of `items` questions."""

    def noise(_language: str, _unmasked: float, items: float) -> float:
        return tolerances.z * tolerances.judge.deviation * float(np.sqrt(2 / items))

    return noise


def no_noise(_language: str, _unmasked: float, _items: float) -> float:
    """For measures over so many tokens that any change is clear."""
    return 0.0


def _directions(frame: pd.DataFrame, column: str, *, noise: Noise) -> dict[tuple[str, ...], tuple[str, str]]:
    """What a mask does to the masked language, and which language loses the largest share of its score, in words."""
    unmasked = {row.evaluation_language: row for row in frame[frame["masked_language"] == ""].itertuples()}
    found = {}
    for key, part in frame[frame["masked_language"] != ""].groupby(MASK, sort=False):
        target = key[3]
        signs: dict[str, int] = {}
        lost: dict[str, float] = {}
        for row in part.itertuples():
            before = unmasked.get(row.evaluation_language)
            if before is None or pd.isna(getattr(row, column)):
                continue
            start, change = float(getattr(before, column)), getattr(row, column) - getattr(before, column)
            clear = abs(change) > noise(row.evaluation_language, start, float(before.items))
            signs[row.evaluation_language] = int(np.sign(change)) if clear else 0
            if clear and change < 0:
                lost[row.evaluation_language] = -change / start
        if target in signs:
            most = max(lost, key=lambda code: lost[code]) if lost else ""
            found[tuple(key)] = _WORDS[signs[target]], language_name(most) if most else _NO_LANGUAGE
    return found


def _agreement(published: tuple[str, str], ours: tuple[str, str] | None) -> str:
    if ours is None:
        return NOT_RUN
    own, most = published[0] == ours[0], published[1] == ours[1]
    return {(True, True): "yes", (True, False): "its score only", (False, True): "loses most only"}.get(
        (own, most), "no"
    )


def directions_beside(
    rows: pd.DataFrame, *, model: str, metric: str, tolerances: Tolerances, noise: Noise, open_ended: bool = False
) -> pd.DataFrame:
    """The direction of every published change beside ours; no value is held against a value.

    Parameters
    ----------
    rows : our tidy result rows of any model
    noise : smallest change of ours that is called clear

    Returns
    -------
    frame with method, budget, masked_language, and published and ours: what the masked language's score does
    (own_published, own_ours: falls, rises, no clear change), which language loses the largest share of its score
    (most_published, most_ours), and same_direction (yes, its score only, loses most only, no, NOT RUN)
    """
    published = published_of(model, open_ended=open_ended).assign(items=float(tolerances.judge.questions))
    if not open_ended:
        sizes = {language: tolerances.benchmarks[task].items for language, task in TASK_OF_LANGUAGE.items()}
        published["items"] = published["evaluation_language"].map(sizes).astype(float)
    published_noise = noise_of_scores(tolerances) if open_ended else noise_of_accuracy(tolerances)
    theirs = _directions(published, "value", noise=published_noise)
    ours = _directions(_over_draws(rows, model=model, metric=metric), "ours", noise=noise)
    records = []
    for key, stated in theirs.items():
        _selected_on, method, budget, language = key
        found = ours.get(key)
        own, most = found or (NOT_RUN, NOT_RUN)
        records.append((method, budget, language, stated[0], own, stated[1], most, _agreement(stated, found)))
    columns = ["method", "budget", "masked_language", "own_published", "own_ours", "most_published", "most_ours"]
    return in_order(pd.DataFrame(records, columns=[*columns, "same_direction"]))
