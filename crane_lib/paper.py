"""What the comparison with the paper needs of a study: whether it is the paper's, and its rows where there are any."""

from __future__ import annotations

import pandas as pd

from crane_lib.agreement import share_with_random
from crane_lib.errors import CraneError
from crane_lib.evaluation.rows import COLUMNS
from crane_lib.files import read_json
from crane_lib.lape_list import read_lape_list
from crane_lib.models.loading import model_directory
from crane_lib.neurons import NeuronSet, read_all_sets
from crane_lib.output import beside
from crane_lib.output.judging import NOT_RUN
from crane_lib.output.published import TASK_OF_LANGUAGE
from crane_lib.output.tolerances import Tolerances
from crane_lib.overlap import overlaps
from crane_lib.study import Study

SIZES = {"Llama-2-7b": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000}}
RELEASED = ("kurtosis", "published")


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


def why_no_values(study: Study, model: str) -> str:
    """Why accuracies of a model cannot be held against published ones, empty where they can."""
    asked = study.profile.paper.benchmarks
    other = [language for language, task in TASK_OF_LANGUAGE.items() if asked.get(language) != task]
    if why := why_not_the_papers(study, model):
        return why
    return f"the {other[0]} questions are not {TASK_OF_LANGUAGE[other[0]]} (paper.benchmarks)" if other else ""


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


def benchmarks(study: Study, rows: pd.DataFrame, model: str, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """Benchmark accuracies of a model beside the published ones, and the table's caption."""
    why = why_no_values(study, model)
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
    rows, missing = open_ended_rows(study)
    why = why_not_the_papers(study, "chat")
    place = "Open-ended answers of the chat model, sets selected on it, judged from 1 to 10"
    note = f" {NOT_RUN}: {missing}." if missing else ""
    if not why:
        table = beside.values_beside(rows, model="chat", metric=metric, tolerances=tolerances, open_ended=True)
        return table, caption(place, "") + note
    table = beside.directions_beside(
        rows,
        model="chat",
        metric=metric,
        tolerances=tolerances,
        noise=beside.noise_of_scores(tolerances),
        open_ended=True,
    )
    return table, caption(f"{place}. {_DIRECTIONS}", why) + note


def langspec(study: Study, rows: pd.DataFrame, model: str, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """LangSpec-F1 by accuracy beside the published one, or the order of the methods, and the table's caption."""
    why = why_no_values(study, model)
    if not why:
        table = beside.langspec_beside(rows, model=model, tolerances=tolerances)
        return table, caption(f"LangSpec-F1 on the benchmarks, {model} model", "")
    words = f"Methods ordered by mean LangSpec-F1 on accuracy, {model} model (1: the most specific)"
    return beside.ranks_beside(rows, model=model), caption(words, why)


def set_overlaps(study: Study, tolerances: Tolerances) -> tuple[pd.DataFrame, str]:
    """Overlaps of the released rule's sets beside the published ones, and the table's caption."""
    why = why_not_the_papers(study, "base")
    sets = read_all_sets(study.selection("base").folder)
    own = [item for item in sets if (item.method, item.budget) == RELEASED]
    draws = [item for item in sets if (item.method, item.budget) == (f"random_like_{RELEASED[0]}", RELEASED[1])]
    random = {language: share_with_random(own, draws, language=language) for language in study.languages}
    table = beside.overlaps_beside(overlaps(own), with_random=random, tolerances=tolerances, same_model=not why)
    words = "Share of the first language's set (released rule) that is also in the second's"
    return table, caption(words if not why else f"{words}, against its share in a random set", why)


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
