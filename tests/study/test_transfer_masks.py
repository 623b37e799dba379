"""Prompts of a study's models: those of the chat model compared with those of the base model."""

import re

import pytest

from crane_run.rehearsal import rehearsal_profile
from crane_study.profile import load_profile
from crane_study.steps.masks import question_harness
from crane_study.study import Study
from tests.small import write_study

REAL = ["llama2-7b", "qwen2.5-0.5b", "qwen3-8b"]


def asked(study, name):
    """Every prompt and answer that a model of a study is given, in the harness's order."""
    options = study.question_options(name)
    with question_harness(study.questions.folder, study.model(name).folder, options) as (_network, harness):
        return [instance.args for task in harness._tasks.values() for instance in task.instances]


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    profile = rehearsal_profile(load_profile("llama2-7b"), folder)
    return Study.open(profile, artifacts=folder, say=lambda _line: None)


@pytest.fixture
def local(tmp_path):
    return Study.open(str(write_study(tmp_path, chat=True)), artifacts=tmp_path / "a", say=lambda _line: None)


@pytest.mark.parametrize("name", REAL)
def test_real_profiles_ask_their_chat_models_without_a_template(name):
    assert not load_profile(name).evaluation.chat_template


def test_without_its_template_the_chat_model_is_asked_as_the_base_model(rehearsed):
    base, chat = (asked(rehearsed, name) for name in ("base", "chat"))
    assert chat == base
    for prompt, answer in chat:
        assert prompt.endswith(("\nAnswer:", "\n答案："))
        assert answer in (" A", " B", " C", " D")
        assert len(re.findall(r"\n(?:Answer:|答案：) [ABCD]\n\n", prompt)) == 5  # worked examples


@pytest.mark.parametrize("template", [True, False])
def test_in_its_template_the_chat_model_has_a_delimiter_of_its_own(local, template):
    if not template:
        (local.model("chat").folder / "chat_template.jinja").unlink()
    changes = {"target_delimiter": {"en": "_"}, "chat_target_delimiter": "~"}
    evaluation = local.profile.evaluation.model_copy(update=changes)
    local.profile = local.profile.model_copy(update={"evaluation": evaluation})
    base, chat = (asked(local, name) for name in ("base", "chat"))
    if not template:
        assert chat == base
        return
    assert len(base) == len(chat) == 2 * 8 * 4
    assert {answer[0] for _prompt, answer in base} == {"_", " "}  # of vi, the harness's own
    assert {answer[0] for _prompt, answer in chat} == {"~"}
    assert [answer[1:] for _prompt, answer in chat] == [answer[1:] for _prompt, answer in base]
    assert all("<|" in prompt for prompt, _answer in chat)
