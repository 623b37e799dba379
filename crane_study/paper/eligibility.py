"""Conditions under which a study's values are compared with published values, and not only their directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from crane_lib.files import read_json
from crane_study.loading.models import model_directory
from crane_study.paper.published import TASK_OF_LANGUAGE

if TYPE_CHECKING:
    from crane_study.study import Study

SIZES = {"Llama-2-7b": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000}}
FEW_SHOT = 5  # worked examples in the paper's prompts
KURTOSIS_THRESHOLD = 1.0  # of the released rule
_TASKS = {"MMLU": "mmlu", "C-Eval": "ceval", "Belebele-vi": "belebele"}
_BELEBELE = "vie_Latn"


def why_other_model(study: Study, model: str) -> str:
    """Reason why a model is not the paper's; empty if the profile names it so and its sizes agree."""
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
    """Reason why the released rule's sets cannot be compared with the published ones; empty if they can."""
    return why_other_model(study, "base") or _other_sets(study)


def why_no_accuracies(study: Study, model: str) -> str:
    """Reason why accuracies of a model cannot be compared with published ones; empty if they can.

    The profile must name the benchmarks as the paper's, and ask all their questions as the paper does.
    """
    return why_other_model(study, model) or _other_sets(study) or _other_questions(study)


def why_no_scores(study: Study, items: pd.DataFrame, *, questions: int) -> str:
    """Reason why judge scores of open answers cannot be compared with published ones; empty if they can.

    `questions` is the paper's number in each language; it is not checked if there are no judged answers.
    """
    if why := why_other_model(study, "chat") or _other_sets(study):
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
    """Reason why the study's kurtosis sets are not by the released rule."""
    threshold = study.profile.selection.kurtosis_threshold
    if threshold == KURTOSIS_THRESHOLD:
        return ""
    return f"selection.kurtosis_threshold is {threshold:g}, the released rule's {KURTOSIS_THRESHOLD:g}"


def _other_questions(study: Study) -> str:
    """Reason why the study's questions are not the paper's benchmarks, complete and with as many worked examples."""
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
