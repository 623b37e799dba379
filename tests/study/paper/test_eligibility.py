"""Conditions for comparing values with published ones."""

import json

import pandas as pd
import pytest

from crane_study.paper import eligibility
from crane_study.profile import Paper, Task
from crane_study.study import Study
from tests.small import write_study

ASKED = {"en": "MMLU", "zh": "C-Eval", "vi": "Belebele-vi"}
TASKS = {"en": Task(name="mmlu"), "zh": Task(name="ceval"), "vi": Task(name="belebele")}
PAPER = {"model": "Llama-2-7b", "benchmarks": ASKED, "open_questions": True}
QUESTIONS = 70


def opened(path):
    return Study.open(str(path), artifacts=path.parent / "artifacts", say=lambda _line: None)


def changed(study, **sections):
    """The study with values of its profile's sections changed."""
    parts = {name: getattr(study.profile, name).model_copy(update=values) for name, values in sections.items()}
    study.profile = study.profile.model_copy(update=parts)
    return study


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A profile whose models say that they have Llama-2-7b's sizes."""
    folder = tmp_path_factory.mktemp("study")
    written = write_study(folder, chat=True)
    for name in ("model", "chat"):
        config = folder / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | eligibility.SIZES["Llama-2-7b"]))
    return written


@pytest.fixture
def study(path):
    """The paper's study."""
    return changed(opened(path), paper=PAPER, evaluation={"tasks": TASKS}, open_ended={"judge": "endpoint"})


def answers(count=QUESTIONS):
    return pd.concat([pd.DataFrame({"language": code, "question": range(count)}) for code in ASKED])


def test_a_model_is_the_papers_only_if_named_so_and_of_its_sizes(study, tmp_path):
    assert eligibility.why_other_model(study, "base") == eligibility.why_other_model(study, "chat") == ""
    assert eligibility.why_no_accuracies(study, "base") == eligibility.why_no_accuracies(study, "chat") == ""
    assert eligibility.why_no_scores(study, answers(), questions=QUESTIONS) == ""
    assert eligibility.why_no_overlaps(study) == ""
    assert eligibility.why_no_overlaps(changed(study, evaluation={"tasks": {}})) == ""  # questions do not matter there
    assert "does not name its models" in eligibility.why_other_model(changed(study, paper={"model": None}), "base")
    other = opened(write_study(tmp_path))
    other.profile = other.profile.model_copy(update={"paper": Paper(**PAPER)})
    why = "the base model has num_hidden_layers 2, Llama-2-7b 32"
    assert eligibility.why_other_model(other, "base") == why
    assert eligibility.why_no_accuracies(other, "base") == eligibility.why_no_overlaps(other) == why
    assert eligibility.why_other_model(other, "chat") == "the profile names no chat model"


def task(language, **given):
    return {"evaluation": {"tasks": TASKS | {language: TASKS[language].model_copy(update=given)}}}


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"paper": {"benchmarks": ASKED | {"zh": "MMLU"}}}, "the zh questions are not C-Eval (paper.benchmarks)"),
        ({"evaluation": {"tasks": {}}}, "the en questions are the profile's own, not MMLU (evaluation.tasks.en)"),
        (task("zh", name="mmlu"), "the zh questions are mmlu, not C-Eval (evaluation.tasks.zh)"),
        (
            task("vi", config="fra_Latn"),
            "the vi questions are belebele, fra_Latn, not Belebele-vi (evaluation.tasks.vi)",
        ),
        (task("en", limit=10), "only some questions of MMLU are asked (evaluation.tasks.en.limit)"),
        (task("zh", subjects=("law",)), "only some questions of C-Eval are asked (evaluation.tasks.zh.subjects)"),
        ({"evaluation": {"few_shot": 0}}, "evaluation.few_shot is 0, the paper's 5"),
        ({"selection": {"kurtosis_threshold": 2.0}}, "selection.kurtosis_threshold is 2, the released rule's 1"),
    ],
)
def test_other_questions_or_another_rule_have_no_accuracies(study, sections, why):
    other = changed(study, **sections)
    assert eligibility.why_no_accuracies(other, "base") == why
    if "selection" in sections:  # another threshold selects other sets
        assert eligibility.why_no_overlaps(other) == why
        assert eligibility.why_no_scores(other, answers(), questions=QUESTIONS) == why


@pytest.mark.parametrize(
    ("sections", "count", "why"),
    [
        ({"open_ended": {"judge": "offline"}}, 70, "the answers are judged offline, the published ones by GPT-4o"),
        ({"paper": {"open_questions": False}}, 70, "the profile does not say that its open questions are the paper's"),
        ({}, 24, "24 questions are asked in en, the paper has 70"),
        ({"open_ended": {"judge": "both"}}, 70, ""),
        ({}, 0, ""),  # nothing was answered: what was published is shown without ours
    ],
)
def test_judge_scores_need_an_endpoint_and_the_papers_questions(study, sections, count, why):
    found = eligibility.why_no_scores(changed(study, **sections), answers(count), questions=QUESTIONS)
    assert found.startswith(why)
    assert bool(found) == bool(why)
