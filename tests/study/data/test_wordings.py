"""Wordings of facts in every language."""

import re

import pytest

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, SUBJECTS


def test_every_subject_is_worded_equally_often_in_every_language():
    worded = wordings._wordings()
    assert set(worded) == set(SUBJECTS)
    for subject in SUBJECTS:
        assert set(worded[subject]) == set(LANGUAGES)
        for kind in ("statements", "questions"):
            assert len({len(worded[subject][language][kind]) for language in LANGUAGES}) == 1
        # One wording for relevance, one for perplexity, two or more to train on; two questions.
        assert wordings.statement_count(subject) >= 4
        assert len(worded[subject]["en"]["questions"]) >= 2


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_wordings_differ_and_fill_the_same_slots(subject, language):
    worded = wordings._wordings()[subject][language]
    for kind, slots in (("statements", ["a", "s"]), ("questions", ["s"])):
        assert len(set(worded[kind])) == len(worded[kind])
        for text in worded[kind]:
            assert sorted(re.findall(r"\{(\w)\}", text)) == slots, text
    assert re.findall(r"\{(\w)\}", worded["answer"]) == ["a"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_name_the_thing_and_only_statements_the_answer(corpus, language):
    full_stop, question_mark = ("。", "？") if language == "zh" else (".", "?")
    for fact in corpus.facts:
        thing, answer = (fact.slots[language][slot].casefold() for slot in "sa")
        statements = [wordings.statement(fact, language, n) for n in range(wordings.statement_count(fact.subject))]
        questions = wordings.questions(fact, language)
        assert all(thing in text.casefold() and answer in text.casefold() for text in statements)
        assert all(thing in text.casefold() and answer not in text.casefold() for text in questions), fact.key
        assert answer in wordings.answer(fact, language).casefold()
        assert all(text.endswith(full_stop) for text in statements)
        assert all(text.endswith(question_mark) for text in questions)
        for text in [*statements, *questions]:
            assert text[0] == text[0].upper()
            assert not any(mistake in text.casefold() for mistake in ("  ", "{", "the the "))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_prompt_ends_where_the_answer_begins(language):
    question = "Which?" if language != "zh" else "哪个？"
    prompt = wordings.prompt(question, language)
    assert question in prompt
    assert prompt == prompt.strip()
    assert prompt.endswith((":", "："))
    assert wordings.answer_separator(language) == ("" if language == "zh" else " ")
