"""Our results beside the paper's: values where the models and benchmarks are the paper's own, directions elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import read_json
from crane_lib.models import model_directory
from crane_lib.neurons import NeuronSet, read_all_sets
from crane_lib.overlap import compare
from crane_lib.specificity import langspec
from crane_study.labels import language_name, ordered_languages
from crane_study.measure.rows import COLUMNS, SET, pick, tidy
from crane_study.paper.claims import NOT_RUN
from crane_study.paper.lape_list import read_lape_list
from crane_study.paper.published import TASK_OF_LANGUAGE, published_overlaps, published_rows, published_scores
from crane_study.paper.tolerances import Tolerances
from crane_study.study import Study
from crane_study.tables import in_study_order
from crane_study.tables.overlap import overlaps
from crane_study.uncertainty.open_ended import FORMS, MEAN, open_langspec

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


SIZES = {"Llama-2-7b": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000}}
# How the paper asked and selected.
FEW_SHOT = 5
KURTOSIS_THRESHOLD = 1.0
_TASKS = {"MMLU": "mmlu", "C-Eval": "ceval", "Belebele-vi": "belebele"}
_BELEBELE = "vie_Latn"


def why_not_the_papers(study: Study, model: str) -> str:
    """Why a model of the study is not the paper's, empty where it is: the profile says so and its sizes agree."""
    named = study.profile.paper.model
    if named is None:
        return "the profile does not name its models as the paper's (paper.model)"
    if model not in study.model_names:
        return f"the profile names no {model} model"
    config = read_json(model_directory(study.model(model).folder) / "config.json")
    for name, expected in SIZES[named].items():
        if config.get(name) != expected:
            return f"the {model} model has {name} {config.get(name)}, {named} {expected}"
    return ""


def why_no_overlaps(study: Study) -> str:
    """Why the released rule's sets cannot be held against the published ones, empty where they can."""
    return why_not_the_papers(study, "base") or _other_sets(study)


def why_no_accuracies(study: Study, model: str) -> str:
    """Why accuracies of a model cannot be held against published ones, empty where they can.

    The profile must name the benchmarks as the paper's, and ask all their questions as the paper does.
    """
    return why_not_the_papers(study, model) or _other_sets(study) or _other_questions(study)


def why_no_scores(study: Study, items: pd.DataFrame, *, questions: int) -> str:
    """Why judge scores of open answers cannot be held against published ones, empty where they can.

    Parameters
    ----------
    items : judged answers; without any, their number is not looked at
    questions : that the paper asks in each language
    """
    if why := why_not_the_papers(study, "chat") or _other_sets(study):
        return why
    if study.judges[0] != "endpoint":
        return "the answers are judged offline, the published ones by GPT-4o (open_ended.judge)"
    if not study.profile.paper.open_questions:
        return "the profile does not say that its open questions are the paper's (paper.open_questions)"
    for language, asked in items.groupby("language", sort=False)["question"].nunique().items():
        if asked != questions:
            return f"{asked} questions are asked in {language}, the paper has {questions} (open_ended.questions)"
    return ""


def _other_sets(study: Study) -> str:
    """Why the study's kurtosis sets are not by the released rule."""
    threshold = study.profile.selection.kurtosis_threshold
    if threshold == KURTOSIS_THRESHOLD:
        return ""
    return f"selection.kurtosis_threshold is {threshold:g}, the released rule's {KURTOSIS_THRESHOLD:g}"


def _other_questions(study: Study) -> str:
    """Why the study's questions are not the paper's benchmarks, whole and with as many worked examples."""
    evaluation, declared = study.profile.evaluation, study.profile.paper.benchmarks
    for language, benchmark in TASK_OF_LANGUAGE.items():
        if declared.get(language) != benchmark:
            return f"the {language} questions are not {benchmark} (paper.benchmarks)"
        task, place = evaluation.tasks.get(language), f"evaluation.tasks.{language}"
        if task is None:
            return f"the {language} questions are the profile's own, not {benchmark} ({place})"
        if task.name != _TASKS[benchmark] or (task.name == "belebele" and task.config != _BELEBELE):
            seen = f"{task.name}, {task.config}" if task.name == "belebele" else task.name
            return f"the {language} questions are {seen}, not {benchmark} ({place})"
        for key in ("limit", "subjects"):
            if getattr(task, key) is not None:
                return f"only some questions of {benchmark} are asked ({place}.{key})"
    if evaluation.few_shot != FEW_SHOT:
        return f"evaluation.few_shot is {evaluation.few_shot}, the paper's {FEW_SHOT}"
    return ""


RELEASED = "released"  # the form of F that the paper reports for open answers
_BETA, _FORM = FORMS[RELEASED]
_OPEN: dict[str, Any] = {"beta": _BETA, "form": _FORM}
Scores = dict[str, float]  # of a mask, a language
Found = Mapping[tuple[str, ...], float]  # LangSpec-F of a mask, by the columns of MASK


def langspec_beside(rows: pd.DataFrame, *, model: str, tolerances: Tolerances) -> pd.DataFrame:
    """LangSpec-F1 from the published accuracies beside ours.

    Returns
    -------
    frame with method, budget, masked_language, published, ours (mean over draws), difference, tolerance and within
    """

    def tolerance(before: Scores, after: Scores, target: str) -> float:
        return tolerances.langspec_f1(before, after, target=target, tasks=TASK_OF_LANGUAGE)

    return _values(published_of(model, open_ended=False), _of_accuracy(rows, model=model), tolerance)


def open_langspec_beside(found: pd.DataFrame, *, tolerances: Tolerances) -> pd.DataFrame:
    """LangSpec-F of open answers from the published judge scores beside ours, in the released form with beta 4.

    Parameters
    ----------
    found : frame of `crane_study.uncertainty.open_ended.open_langspec`, of the chat model

    Returns
    -------
    as `langspec_beside`
    """

    def tolerance(before: Scores, after: Scores, target: str) -> float:
        return tolerances.open_langspec(before, after, target=target, **_OPEN)

    return _values(_published_open(), _of_scores(found), tolerance, **_OPEN)


def ranks_beside(rows: pd.DataFrame, *, model: str) -> pd.DataFrame:
    """Order of the methods by mean LangSpec-F1 on accuracy, published and ours; 1 is the most specific.

    Returns
    -------
    frame with method, budget, rank_published, rank_ours (NOT RUN where a mask is missing), same_direction
    """
    return _order(_langspec(published_of(model, open_ended=False)), _of_accuracy(rows, model=model))


def open_ranks_beside(found: pd.DataFrame) -> pd.DataFrame:
    """Order of the methods by mean LangSpec-F of open answers, as `ranks_beside`; `found` as `open_langspec_beside`."""
    return _order(_langspec(_published_open(), **_OPEN), _of_scores(found))


def _published_open() -> pd.DataFrame:
    return published_of("chat", open_ended=True).assign(random_seed=-1)


def _scores(rows: pd.DataFrame) -> Scores:
    return {row.evaluation_language: float(row.value) for row in rows.itertuples()}


def _masks(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], Scores, Scores]]:
    """Scores without a mask and under each mask and draw; masks not measured in every language are left out."""
    before = _scores(rows[rows["masked_language"] == ""])
    for key, part in rows[rows["masked_language"] != ""].groupby([*MASK, "random_seed"], sort=False):
        after = _scores(part)
        if set(after) == set(before) and len(before) > 1:
            yield tuple(key[:-1]), before, after


def _langspec(rows: pd.DataFrame, **form: Any) -> Found:
    """LangSpec-F of every mask, mean over draws."""
    found: dict[tuple[str, ...], list[float]] = {}
    for key, before, after in _masks(rows):
        found.setdefault(key, []).append(langspec(before, after, target=key[3], **form).f)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _of_accuracy(rows: pd.DataFrame, *, model: str) -> Found:
    return _langspec(pick(tidy(rows), model=model, metric=ACCURACY))


def _of_scores(found: pd.DataFrame) -> Found:
    """What `open_langspec` found in the released form, a mask; those without a value are left out."""
    part = pick(found, model="chat", form=RELEASED)
    part = part[part["masked_language"] != MEAN].dropna(subset="langspec")
    return {tuple(getattr(row, name) for name in MASK): float(row.langspec) for row in part.itertuples()}


def _values(
    published: pd.DataFrame, ours: Found, tolerance: Callable[[Scores, Scores, str], float], **form: Any
) -> pd.DataFrame:
    records = []
    for key, before, after in _masks(published):
        _selected_on, method, budget, language = key
        stated, found = langspec(before, after, target=language, **form).f, ours.get(key, np.nan)
        records.append((method, budget, language, stated, found, found - stated, tolerance(before, after, language)))
    columns = ["method", "budget", "masked_language", "published", "ours", "difference", "tolerance"]
    table = pd.DataFrame(records, columns=columns)
    table["within"] = within(table)
    return in_order(table)


def _order(theirs: Found, ours: Found) -> pd.DataFrame:
    """Places of the published sets, in the order of their means; sets that we lack are not counted on either side."""
    published, found = _means(theirs), _means(ours)
    shared = [key for key in published if key in found]
    records = []
    for key in published:
        if key in shared:
            first, second = (_place(key, {name: means[name] for name in shared}) for means in (published, found))
            records.append((*key[1:], str(first), str(second), "yes" if first == second else "no"))
        else:
            records.append((*key[1:], NOT_RUN, NOT_RUN, NOT_RUN))
    columns = ["method", "budget", "rank_published", "rank_ours", "same_direction"]
    return in_order(pd.DataFrame(records, columns=columns))


def _means(found: Found) -> dict[tuple[str, ...], float]:
    """Mean over languages of the sets selected on a model by a method at a budget, where every language is there."""
    languages = ordered_languages(key[3] for key in found)
    grouped: dict[tuple[str, ...], list[float]] = {}
    for key, value in found.items():
        grouped.setdefault(key[:3], []).append(value)
    return {key: float(np.mean(values)) for key, values in grouped.items() if len(values) == len(languages)}


def _place(key: tuple[str, ...], means: Mapping[tuple[str, ...], float]) -> int:
    """Place from the largest, equal ones in the same place."""
    return 1 + sum(other > means[key] for other in means.values())


RANDOM = "random"  # a random set, in the place of a language
NOT_PUBLISHED = "not published"
_CHANCE = ["expected_share_of_a", "chance_low", "chance_high"]


def overlaps_beside(
    overlaps: pd.DataFrame, *, with_random: float, tolerances: Tolerances, same_model: bool
) -> pd.DataFrame:
    """Published overlaps of the released rule's sets beside ours, and both beside chance.

    Chance is, for ours, a set with the second language's number of units in every layer and site.  The paper gives one
    value, the share of its English set in a random one, so other pairs have no published direction.

    Parameters
    ----------
    overlaps : ours, of the released rule at its own threshold (`crane_study.tables.overlap.overlaps`)
    with_random : expected share of our English set in a random one of the same counts
    same_model : on the paper's model, values and tolerances too; otherwise directions only

    Returns
    -------
    frame with language_a, language_b, published_direction, our_direction (more than chance, less than chance, no clear
    difference: within the 95 % range) and same_direction; on the paper's model also published, ours, difference,
    tolerance, within, and our expected_share_of_a, chance_low and chance_high
    """
    keys = ["language_a", "language_b"]
    ours = overlaps[[*keys, "share_of_a", *_CHANCE]].rename(columns={"share_of_a": "ours"})
    table = published_overlaps().rename(columns={"share_of_a": "published"}).merge(ours, how="left", on=keys)
    random = table["language_b"] == RANDOM
    of_random = table[random].set_index("language_a")["published"]
    table["published_direction"] = [
        _than_chance(row.published, *[of_random[row.language_a]] * 2) if row.language_a in of_random else NOT_PUBLISHED
        for row in table.itertuples()
    ]
    table["our_direction"] = [_than_chance(row.ours, row.chance_low, row.chance_high) for row in table.itertuples()]
    table["same_direction"] = [
        _overlap_agreement(row.published_direction, row.our_direction) for row in table.itertuples()
    ]
    directions = ["published_direction", "our_direction", "same_direction"]
    if not same_model:
        return table.loc[~random, [*keys, *directions]].reset_index(drop=True)
    table.loc[random, "ours"] = with_random
    table.loc[random, directions] = ""  # it is the chance that others are held against
    table["difference"] = table["ours"] - table["published"]
    table["tolerance"] = tolerances.overlap_share
    table["within"] = within(table)
    return table[[*keys, "published", "ours", "difference", "tolerance", "within", *_CHANCE, *directions]]


def _than_chance(share: float, low: float, high: float) -> str:
    if np.isnan([share, low, high]).any():
        return NOT_RUN
    if low <= share <= high:
        return "no clear difference"
    return "more than chance" if share > high else "less than chance"


def _overlap_agreement(published: str, ours: str) -> str:
    if ours == NOT_RUN:
        return NOT_RUN
    if published == NOT_PUBLISHED:
        return NOT_PUBLISHED
    return "yes" if published == ours else "no"


RELEASED_RULE = ("kurtosis", "published")


def caption(what: str, why: str) -> str:
    """Caption of a comparison: what it shows, and whether values or directions stand there."""
    if not why:
        return f"{what}: published value, ours, their difference, and whether it lies within the tolerance."
    return f"{what}: directions only, for {why}."


def open_ended_rows(study: Study) -> tuple[pd.DataFrame, str]:
    """Judge scores of open-ended answers, and why all or the endpoint's are missing, empty where none is."""
    rows, reason = pd.DataFrame(columns=list(COLUMNS)), study.no_open_ended
    if reason:
        return rows, reason
    try:
        if len(study.judges) > 1:  # the offline judge's scores stand by themselves
            rows = study.judge_rows("offline")
        return study.open_rows(), ""
    except CraneError as error:  # no judge, say; what does not read the scores goes on without them
        return rows, str(error)


def open_ended_results(study: Study) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Judge scores of open-ended answers, the answers, and why any are missing, empty where none is."""
    rows, reason = open_ended_rows(study)
    items = study.open_items() if not reason else pd.DataFrame(columns=["language", "question"])
    return rows, items, reason


def benchmarks(study: Study, rows: pd.DataFrame, model: str, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """Benchmark accuracies of a model beside the published ones, and the table's caption."""
    why = why_no_accuracies(study, model)
    place = f"Benchmarks, {model} model, sets selected on the base model"
    if not why:
        table = values_beside(rows, model=model, metric=ACCURACY, tolerances=tolerances)
        return table, caption(place, "")
    measure = study.measures[-1]
    noise: Noise = no_noise
    if measure == ACCURACY:
        noise = noise_of_accuracy(tolerances)
    table = directions_beside(rows, model=model, metric=measure, tolerances=tolerances, noise=noise)
    words = f"{place}; ours by {measure.replace('_', ' ')}. {_DIRECTIONS}"
    return table, caption(words, why)


_DIRECTIONS = (
    "For the language whose units are masked whether its score clearly falls or rises, and which language clearly "
    "loses the largest share of its score"
)


def open_ended(study: Study, tolerances: Tolerances, *, metric: str) -> tuple[pd.DataFrame, str]:
    """Judge scores of the chat model beside the published ones, and the table's caption."""
    rows, items, missing = open_ended_results(study)
    why = why_no_scores(study, items, questions=tolerances.judge.questions)
    place = "Open-ended answers of the chat model, sets selected on it, judged from 1 to 10"
    if not why:
        table = values_beside(rows, model="chat", metric=metric, tolerances=tolerances, open_ended=True)
        return table, caption(place, "") + _note(missing)
    table = directions_beside(
        rows,
        model="chat",
        metric=metric,
        tolerances=tolerances,
        noise=noise_of_scores(tolerances),
        open_ended=True,
    )
    return table, caption(f"{place}. {_DIRECTIONS}", why) + _note(missing)


def _note(missing: str) -> str:
    return f" {NOT_RUN}: {missing}." if missing else ""


def langspec_table(study: Study, rows: pd.DataFrame, model: str, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """LangSpec-F1 by accuracy beside the published one, or the order of the methods, and the table's caption."""
    why = why_no_accuracies(study, model)
    if not why:
        table = langspec_beside(rows, model=model, tolerances=tolerances)
        return table, caption(f"LangSpec-F1 on the benchmarks, {model} model", "")
    words = f"Methods ordered by mean LangSpec-F1 on accuracy, {model} model (1: the most specific)"
    return ranks_beside(rows, model=model), caption(words, why)


def open_ended_langspec(study: Study, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """LangSpec-F on the judge's scores beside the published one, or the order of the methods, and the caption."""
    _rows, items, missing = open_ended_results(study)
    why = why_no_scores(study, items, questions=tolerances.judge.questions)
    found = pd.DataFrame(columns=["form", *SET, "masked_language", "langspec"])
    if not missing:
        found = open_langspec(items, resamples=1)  # for its values; section 05 has the intervals
    form = "in the released form, beta 4, on the judge's scores of the chat model's answers, sets selected on it"
    if not why:
        table = open_langspec_beside(found, tolerances=tolerances)
        return table, caption(f"LangSpec-F {form}", "") + _note(missing)
    words = f"Methods ordered by mean LangSpec-F {form} (1: the most specific)"
    return open_ranks_beside(found), caption(words, why) + _note(missing)


def set_overlaps(study: Study, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """Overlaps of the released rule's sets beside the published ones, and the table's caption."""
    why = why_no_overlaps(study)
    sets = read_all_sets(study.selection("base").folder)
    own = [item for item in sets if (item.method, item.budget) == RELEASED_RULE]
    # A set beside itself has the chance of a random set of its own shape.
    by_chance = {item.language: compare(item, item)["expected_share_of_a"] for item in own}
    table = overlaps_beside(
        overlaps(own), with_random=by_chance.get("en", np.nan), tolerances=tolerances, same_model=not why
    )
    words = (
        "Share of the first language's set (released rule) that is also in the second's, against chance (ours: the "
        "95 % range of sets shaped like the second one; published: the share in one random set, for English only)"
    )
    return table, caption(words, why)


def lape_list(study: Study, ours: list[NeuronSet]) -> tuple[list[NeuronSet], str]:
    """LAPE's published list and our LAPE sets beside it, and why there are none, empty where there are.

    Raises
    ------
    CraneError : the profile names a list that cannot be read or is of another model
    """
    path = study.profile.paper.lape_list
    if path is None:
        return [], "the profile names no published list (paper.lape_list)"
    if study.profile.rehearsal:
        return [], "a rehearsal's model is not the one of the list"
    mine = [item for item in ours if (item.method, item.budget) == ("lape", "published")]
    listed = read_lape_list(path, layers=mine[0].layers, width=mine[0].widths["neuron"], model=mine[0].model)
    return [item for item in listed if item.language in study.languages], ""


def by_rule(sets: list[NeuronSet]) -> dict[tuple[str, str], list[NeuronSet]]:
    """Sets by method and budget."""
    groups: dict[tuple[str, str], list[NeuronSet]] = {}
    for item in sets:
        groups.setdefault((item.method, item.budget), []).append(item)
    return groups


def main_sets(study: Study) -> list[NeuronSet]:
    """The base model's sets of every rule, as published and at the common budget, without random draws."""
    sets = read_all_sets(study.selection("base").folder)
    budgets = ("published", study.budget)
    return [item for item in sets if item.budget in budgets and not item.method.startswith("random")]
