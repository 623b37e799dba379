"""What section 08 shows: results of a study beside the published ones, each table with its caption."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.comparable import why_no_accuracies, why_no_overlaps, why_no_scores
from crane_lib.errors import CraneError
from crane_lib.evaluation.open_ended import open_langspec
from crane_lib.evaluation.rows import COLUMNS, SET
from crane_lib.lape_list import read_lape_list
from crane_lib.neurons import NeuronSet, read_all_sets
from crane_lib.output import beside, beside_langspec
from crane_lib.output.beside_overlaps import overlaps_beside
from crane_lib.output.judging import NOT_RUN
from crane_lib.output.tolerances import Tolerances
from crane_lib.overlap import compare, overlaps
from crane_lib.study import Study

RELEASED = ("kurtosis", "published")


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
        table = beside.values_beside(rows, model=model, metric=beside.ACCURACY, tolerances=tolerances)
        return table, caption(place, "")
    measure = study.measures[-1]
    noise: beside.Noise = beside.no_noise
    if measure == beside.ACCURACY:
        noise = beside.noise_of_accuracy(tolerances)
    table = beside.directions_beside(rows, model=model, metric=measure, tolerances=tolerances, noise=noise)
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
        table = beside.values_beside(rows, model="chat", metric=metric, tolerances=tolerances, open_ended=True)
        return table, caption(place, "") + _note(missing)
    table = beside.directions_beside(
        rows,
        model="chat",
        metric=metric,
        tolerances=tolerances,
        noise=beside.noise_of_scores(tolerances),
        open_ended=True,
    )
    return table, caption(f"{place}. {_DIRECTIONS}", why) + _note(missing)


def _note(missing: str) -> str:
    return f" {NOT_RUN}: {missing}." if missing else ""


def langspec(study: Study, rows: pd.DataFrame, model: str, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """LangSpec-F1 by accuracy beside the published one, or the order of the methods, and the table's caption."""
    why = why_no_accuracies(study, model)
    if not why:
        table = beside_langspec.langspec_beside(rows, model=model, tolerances=tolerances)
        return table, caption(f"LangSpec-F1 on the benchmarks, {model} model", "")
    words = f"Methods ordered by mean LangSpec-F1 on accuracy, {model} model (1: the most specific)"
    return beside_langspec.ranks_beside(rows, model=model), caption(words, why)


def open_ended_langspec(study: Study, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """LangSpec-F on the judge's scores beside the published one, or the order of the methods, and the caption."""
    _rows, items, missing = open_ended_results(study)
    why = why_no_scores(study, items, questions=tolerances.judge.questions)
    found = pd.DataFrame(columns=["form", *SET, "masked_language", "langspec"])
    if not missing:
        found = open_langspec(items, resamples=1)  # for its values; section 05 has the intervals
    form = "in the released form, beta 4, on the judge's scores of the chat model's answers, sets selected on it"
    if not why:
        table = beside_langspec.open_langspec_beside(found, tolerances=tolerances)
        return table, caption(f"LangSpec-F {form}", "") + _note(missing)
    words = f"Methods ordered by mean LangSpec-F {form} (1: the most specific)"
    return beside_langspec.open_ranks_beside(found), caption(words, why) + _note(missing)


def set_overlaps(study: Study, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """Overlaps of the released rule's sets beside the published ones, and the table's caption."""
    why = why_no_overlaps(study)
    sets = read_all_sets(study.selection("base").folder)
    own = [item for item in sets if (item.method, item.budget) == RELEASED]
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
