"""Tables of the comparison with the paper: each with a caption that says whether it shows values or directions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.neurons import read_all_sets
from crane_study.measure.rows import SET
from crane_study.paper.claims import NOT_RUN
from crane_study.paper.comparison import (
    Published,
    accuracy_langspec,
    compare_directions,
    compare_langspec,
    compare_overlaps,
    compare_ranks,
    compare_runs,
    compare_values,
    score_langspec,
)
from crane_study.paper.eligibility import why_no_accuracies, why_no_overlaps, why_no_scores
from crane_study.paper.published import ACCURACY
from crane_study.paper.tolerances import Tolerances
from crane_study.study import Study
from crane_study.tables.open_ended import available_results
from crane_study.tables.overlap import overlaps
from crane_study.uncertainty.bootstrap import resample_documents, resample_items
from crane_study.uncertainty.intervals import set_changes
from crane_study.uncertainty.open_ended import open_langspec, score_changes
from crane_study.uncertainty.overlap import compare

RELEASED_RULE = ("kurtosis", "published")
Table = tuple[pd.DataFrame, str]  # with its caption
_DIRECTIONS = (
    "For the language whose units are masked whether its score clearly falls or rises, and which language clearly "
    "loses the largest share of its score (ours: clear where the 95 % interval of the paired change leaves out 0)"
)
_CHANGES = [*SET, "masked_language", "evaluation_language", "unmasked", "change", "low", "high"]


def _caption(content: str, why: str, missing: str = "") -> str:
    """Caption: the content, values or directions only and why, and what was not run."""
    kind = ": published value, ours, their difference, and whether it lies within the tolerance."
    note = f" {NOT_RUN}: {missing}." if missing else ""
    return content + (f": directions only, for {why}." if why else kind) + note


def benchmarks(study: Study, rows: pd.DataFrame, model: str, tolerances: Tolerances) -> Table:
    """Benchmark accuracies of a model, published and ours."""
    why = why_no_accuracies(study, model)
    content = f"Benchmarks, {model} model, sets selected on the base model"
    published = Published.benchmarks(model, tolerances, listed=study.listed is not None)
    if not why:
        return compare_values(rows, published, model=model), _caption(content, "")
    if model == "chat" and not study.has_chat:
        table = compare_directions(pd.DataFrame(columns=_CHANGES), published)
        return table, _caption(f"{content}. {_DIRECTIONS}", why, "the profile names no chat model")
    measure = study.measures[-1]
    compared = {"none", *published.rows["method"]}
    frame = study.items(model) if measure == ACCURACY else study.documents(model)
    resample = resample_items if measure == ACCURACY else resample_documents
    found = resample(frame[frame["method"].isin(compared)], random_seed=study.profile.random_seed)
    table = compare_directions(set_changes(found), published)
    return table, _caption(f"{content}; ours by {measure.replace('_', ' ')}. {_DIRECTIONS}", why)


def benchmark_langspec(study: Study, rows: pd.DataFrame, model: str, tolerances: Tolerances) -> Table:
    """LangSpec-F1 by accuracy, or the order of the methods, published and ours."""
    why = why_no_accuracies(study, model)
    ours, published = (
        accuracy_langspec(rows, model=model),
        Published.benchmarks(model, tolerances, listed=study.listed is not None),
    )
    if not why:
        content = f"LangSpec-F1 on the benchmarks by the paper's formula (no correction for chance), {model} model"
        return compare_langspec(ours, published), _caption(content, "")
    content = f"Methods ordered by mean LangSpec-F1 on accuracy, the paper's formula, {model} model (1: most specific)"
    return compare_ranks(ours, published), _caption(content, why)


def published_runs(study: Study, rows: pd.DataFrame, tolerances: Tolerances) -> Table:
    """Both published runs of the released rule on the base model, and ours where it compares."""
    why = why_no_accuracies(study, "base")
    content = (
        "The released rule on the benchmarks, base model: the authors' two runs, on two samples of documents, the "
        "difference between them, and whether it lies within the tolerance"
    )
    table = compare_runs(Published.benchmarks("base", tolerances), None if why else rows)
    return table, f"{content}. {f'Ours is not beside them, for {why}' if why else 'Ours is beside them'}."


def open_ended(study: Study, tolerances: Tolerances) -> Table:
    """Judge scores of the chat model, published and ours."""
    rows, items, missing = available_results(study)
    why = why_no_scores(study, items, questions=tolerances.judge.questions)
    content = "Open-ended answers of the chat model, sets selected on it, judged from 1 to 10"
    published = Published.open_answers(tolerances)
    if not why:
        return compare_values(rows, published, model="chat"), _caption(content, "", missing)
    changes = pd.DataFrame(columns=_CHANGES) if missing else score_changes(items)
    table = compare_directions(changes, published)
    return table, _caption(f"{content}. {_DIRECTIONS}", why, missing)


def open_ended_langspec(study: Study, tolerances: Tolerances) -> Table:
    """LangSpec-F by the judge's scores, or the order of the methods, published and ours."""
    _rows, items, missing = available_results(study)
    why = why_no_scores(study, items, questions=tolerances.judge.questions)
    found = pd.DataFrame(columns=["form", *SET, "masked_language", "langspec"])
    if not missing:
        found = open_langspec(items, resamples=1)  # for its values; section 05 has the intervals
    ours, published = score_langspec(found), Published.open_answers(tolerances)
    form = "in the released form, beta 4, on the judge's scores of the chat model's answers, sets selected on it"
    if not why:
        return compare_langspec(ours, published), _caption(f"LangSpec-F {form}", "", missing)
    content = f"Methods ordered by mean LangSpec-F {form} (1: the most specific)"
    return compare_ranks(ours, published), _caption(content, why, missing)


def set_overlaps(study: Study, tolerances: Tolerances) -> Table:
    """Overlaps of the released rule's sets, published and ours."""
    why = why_no_overlaps(study)
    sets = read_all_sets(study.selection("base").folder)
    own = [item for item in sets if (item.method, item.budget) == RELEASED_RULE]
    # A set compared with itself has the chance of a random set of its own shape.
    by_chance = {item.language: compare(item, item)["expected_share_of_a"] for item in own}
    with_random = by_chance.get("en", np.nan)
    table = compare_overlaps(overlaps(own), with_random=with_random, tolerances=tolerances, same_model=not why)
    content = (
        "Share of the first language's set (released rule) that is also in the second's, against chance (ours: the "
        "95 % range of sets shaped like the second one; published: the share in one random set, for English only)"
    )
    return table, _caption(content, why)
