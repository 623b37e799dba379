from collections import Counter, defaultdict

import pytest

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES
from crane_study.data.questions import OPTIONS, form_questions


def groups(questions):
    return [questions[start : start + OPTIONS] for start in range(0, len(questions), OPTIONS)]


def test_enough_questions_from_enough_subjects(corpus):
    for language in LANGUAGES:
        subjects = Counter(question.subject for question in corpus.questions[language])
        assert sum(subjects.values()) >= 200
        assert len(subjects) >= 6
        assert max(subjects.values()) <= OPTIONS * corpus.options.question_groups_per_subject


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_group_shares_its_options_and_each_is_right_once(corpus, language):
    for group in groups(corpus.questions[language]):
        assert len(group) == OPTIONS
        assert len({question.options for question in group}) == 1
        assert len(set(group[0].options)) == OPTIONS
        assert sorted(question.gold for question in group) == list(range(OPTIONS))
        assert len({question.subject for question in group}) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_gold_option_is_the_facts_answer_and_the_others_are_wrong(corpus, language):
    facts = {fact.key: fact for fact in corpus.facts}
    for question in corpus.questions[language]:
        fact = facts[question.key]
        assert question.language == language
        assert question.question == wordings.questions(fact, language)[0]
        right = wordings.answer(fact, language)
        assert [option for option in question.options if option == right] == [question.options[question.gold]]


def test_no_wrong_option_is_true_as_well(corpus):
    """An option is another fact's answer, never another name of the right one."""
    facts = {fact.key: fact for fact in corpus.facts}
    for group in groups(corpus.questions["en"]):
        assert len({facts[question.key].answer_key for question in group}) == OPTIONS


def test_languages_ask_the_same(corpus):
    said = defaultdict(set)
    for language in LANGUAGES:
        asked = corpus.questions[language]
        assert len({question.key for question in asked}) == len(asked)
        for number, question in enumerate(asked):
            said[number].add((question.key, question.subject, question.gold))
    assert all(len(same) == 1 for same in said.values())


def test_every_position_is_right_equally_often(corpus):
    for language in LANGUAGES:
        positions = Counter(question.gold for question in corpus.questions[language])
        assert len(set(positions.values())) == 1


def test_the_row_of_a_task_file(corpus):
    question = corpus.questions["vi"][0]
    row = question.to_row()
    assert row["prompt"] == f"Câu hỏi: {question.question}\nTrả lời:"
    assert row["options"] == list(question.options)
    assert (row["gold"], row["key"]) == (question.gold, question.key)


def test_the_draw_is_the_seeds(corpus):
    groups_per_subject = corpus.options.question_groups_per_subject
    again = form_questions(corpus.facts, groups_per_subject=groups_per_subject, random_seed=corpus.random_seed)
    other = form_questions(corpus.facts, groups_per_subject=groups_per_subject, random_seed=corpus.random_seed + 1)
    assert again == corpus.questions
    assert other != corpus.questions


def test_subjects_that_allow_no_group_have_none(corpus):
    few = [fact for fact in corpus.facts if fact.subject == "unit"]
    one_answer = [fact for fact in few if fact.answer_key == few[0].answer_key]
    assert form_questions(one_answer, groups_per_subject=2, random_seed=0) == {language: [] for language in LANGUAGES}
