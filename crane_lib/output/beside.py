"""Our results beside the paper's: values where the models and benchmarks are the paper's own, directions elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from crane_lib.metrics import langspec
from crane_lib.output.frames import pick, tidy
from crane_lib.output.judging import NOT_RUN
from crane_lib.output.published import TASK_OF_LANGUAGE, published_overlaps, published_rows, published_scores
from crane_lib.output.style import language_name, ordered_languages
from crane_lib.output.tables import in_study_order
from crane_lib.output.tolerances import Tolerances

ACCURACY = "accuracy"
RANDOM = "random"  # a random set, in the place of a language
_MASK = ["selected_on", "method", "budget", "masked_language"]
_WORDS = {-1: "falls", 0: "no clear change", 1: "rises"}
_NO_LANGUAGE = "none clearly"
Noise = Callable[[str, float, float], float]  # language, unmasked value, number of items -> smallest clear change


def _over_draws(rows: pd.DataFrame, *, model: str, metric: str) -> pd.DataFrame:
    """Our value of a metric for every mask of a model: mean, deviation over draws, number of items."""
    frame = tidy(rows, needed=["model", *_MASK, "evaluation_language", "metric", "value"])
    frame = pick(frame, model=model, metric=metric)
    if "n" not in frame:
        frame["n"] = np.nan
    grouped = frame.groupby([*_MASK, "evaluation_language"], sort=False)
    table = grouped.agg(ours=("value", "mean"), deviation=("value", "std"), items=("n", "max")).reset_index()
    return table.fillna({"deviation": 0.0})


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    names = ["method", "budget", "masked_language", "evaluation_language"]
    return in_study_order(frame, [name for name in names if name in frame])


def _within(frame: pd.DataFrame) -> list[str]:
    """For every row whether our value lies within the tolerance, NOT RUN where there is none."""
    return [
        NOT_RUN if pd.isna(row.ours) else ("yes" if abs(row.difference) <= row.tolerance else "no")
        for row in frame.itertuples()
    ]


def _published(model: str, *, open_ended: bool) -> pd.DataFrame:
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
    published = _published(model, open_ended=open_ended)[[*_MASK, "evaluation_language", "value"]]
    ours = _over_draws(rows, model=model, metric=metric)
    table = published.rename(columns={"value": "published"}).merge(ours, how="left", on=[*_MASK, "evaluation_language"])
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
    table["within"] = _within(table)
    columns = ["method", "budget", "masked_language", "evaluation_language"]
    return _sorted(table[[*columns, "published", "ours", "difference", "tolerance", "within"]])


def langspec_beside(rows: pd.DataFrame, *, model: str, tolerances: Tolerances) -> pd.DataFrame:
    """LangSpec-F1 from the published accuracies beside ours; columns as `values_beside` without evaluation_language."""
    published = _published(model, open_ended=False)
    ours = _langspec(tidy(rows), model=model)
    before = _scores(published[published["masked_language"] == ""])
    records = []
    for key, part in published[published["masked_language"] != ""].groupby(_MASK, sort=False):
        _selected_on, method, budget, language = key
        after = _scores(part)
        found = ours.get(key, np.nan)
        stated = langspec(before, after, target=language).f
        tolerance = tolerances.langspec_f1(before, after, target=language, tasks=TASK_OF_LANGUAGE)
        records.append((method, budget, language, stated, found, found - stated, tolerance))
    columns = ["method", "budget", "masked_language", "published", "ours", "difference", "tolerance"]
    table = pd.DataFrame(records, columns=columns)
    table["within"] = _within(table)
    return _sorted(table)


def _scores(rows: pd.DataFrame, column: str = "value") -> dict[str, float]:
    return {row.evaluation_language: float(getattr(row, column)) for row in rows.itertuples()}


def _langspec(rows: pd.DataFrame, *, model: str) -> dict[tuple[str, ...], float]:
    """Our LangSpec-F1 on accuracy of every mask, mean over draws; masks not measured in every language are left out."""
    frame = pick(rows, model=model, metric=ACCURACY)
    before = _scores(frame[frame["masked_language"] == ""])
    found: dict[tuple[str, ...], list[float]] = {}
    for key, part in frame[frame["masked_language"] != ""].groupby([*_MASK, "random_seed"], sort=False):
        after = _scores(part)
        if set(after) == set(before) and len(before) > 1:
            found.setdefault(tuple(key[:-1]), []).append(langspec(before, after, target=key[3]).f)
    return {key: float(np.mean(values)) for key, values in found.items()}


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
    for key, part in frame[frame["masked_language"] != ""].groupby(_MASK, sort=False):
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
    published = _published(model, open_ended=open_ended).assign(items=float(tolerances.judge.questions))
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
    return _sorted(pd.DataFrame(records, columns=[*columns, "same_direction"]))


def ranks_beside(rows: pd.DataFrame, *, model: str) -> pd.DataFrame:
    """Order of the methods by mean LangSpec-F1 on accuracy, published and ours; 1 is the most specific.

    Returns
    -------
    frame with method, budget, rank_published, rank_ours (empty where a mask is missing), same_direction
    """
    published = _published(model, open_ended=False)
    ours, theirs = (_mean_langspec(_langspec(tidy(frame), model=model)) for frame in (rows, published))
    shared = [key for key in theirs if key in ours]
    places = {name: _ranks({key: means[key] for key in shared}) for name, means in (("p", theirs), ("o", ours))}
    records = []
    for key in theirs:
        if key in shared:
            first, second = places["p"][key], places["o"][key]
            records.append((*key, str(first), str(second), "yes" if first == second else "no"))
        else:
            records.append((*key, NOT_RUN, NOT_RUN, NOT_RUN))
    columns = ["method", "budget", "rank_published", "rank_ours", "same_direction"]
    return _sorted(pd.DataFrame(records, columns=columns))


def _mean_langspec(scores: Mapping[tuple[str, ...], float]) -> dict[tuple[str, str], float]:
    """Mean over languages a method and budget, where every language of the study is there."""
    languages = ordered_languages(key[3] for key in scores)
    grouped: dict[tuple[str, str], dict[str, float]] = {}
    for (_selected_on, method, budget, language), value in scores.items():
        grouped.setdefault((method, budget), {})[language] = value
    return {key: float(np.mean(list(part.values()))) for key, part in grouped.items() if len(part) == len(languages)}


def _ranks(means: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], int]:
    """Place of each from the largest, equal ones in the same place."""
    return {key: 1 + sum(other > mean for other in means.values()) for key, mean in means.items()}


def overlaps_beside(
    overlaps: pd.DataFrame, *, with_random: Mapping[str, float], tolerances: Tolerances, same_model: bool
) -> pd.DataFrame:
    """Published overlaps of the released rule's sets beside ours.

    Parameters
    ----------
    overlaps : ours, of the released rule at its own threshold (`crane_lib.overlap.overlaps`)
    with_random : language -> our share of its set in a random set of the same counts
    same_model : values and tolerances; otherwise whether two languages share more than a set and a random one

    Returns
    -------
    frame with language_a, language_b and, on the paper's model, published, ours, difference, tolerance, within;
    elsewhere published_direction, our_direction (more or less than random) and same_direction
    """
    published = published_overlaps()
    shares = {(row.language_a, row.language_b): float(row.share_of_a) for row in overlaps.itertuples()}
    shares |= {(language, RANDOM): share for language, share in with_random.items()}
    found = [shares.get((row.language_a, row.language_b), np.nan) for row in published.itertuples()]
    table = published.rename(columns={"share_of_a": "published"}).assign(ours=found)
    if same_model:
        table["difference"] = table["ours"] - table["published"]
        table["tolerance"] = tolerances.overlap_share
        table["within"] = _within(table)
        return table
    random = float(published.loc[published["language_b"] == RANDOM, "share_of_a"].iloc[0])
    table = table[table["language_b"] != RANDOM].reset_index(drop=True)
    table["published_direction"] = [_than_random(share, random) for share in table["published"]]
    table["our_direction"] = [
        _than_random(row.ours, with_random.get(row.language_a, np.nan)) for row in table.itertuples()
    ]
    table["same_direction"] = [
        NOT_RUN if ours == NOT_RUN else ("yes" if ours == stated else "no")
        for stated, ours in zip(table["published_direction"], table["our_direction"], strict=True)
    ]
    return table.drop(columns=["published", "ours"])


def _than_random(share: float, random: float) -> str:
    if np.isnan(share) or np.isnan(random):
        return NOT_RUN
    return "more than random" if share > random else "not more than random"
