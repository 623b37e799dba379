import re

import pytest

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, SUBJECTS


def texts(subject, language):
    return wordings._wordings()[subject][language]


def test_every_subject_is_worded_and_nothing_else():
    assert set(wordings._wordings()) == set(SUBJECTS)
    for subject in SUBJECTS:
        assert set(wordings._wordings()[subject]) == set(LANGUAGES)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_as_many_wordings_in_every_language(subject):
    for kind in ("statements", "questions"):
        counts = {len(texts(subject, language)[kind]) for language in LANGUAGES}
        assert len(counts) == 1
    # One wording for relevance, one for perplexity, two or more to train on; two ways to ask.
    assert wordings.statement_count(subject) >= 4
    assert len(texts(subject, "en")["questions"]) >= 2


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_wording_is_given_twice_and_all_fill_the_same_slots(subject, language):
    wording = texts(subject, language)
    for kind, slots in (("statements", {"s", "a"}), ("questions", {"s"})):
        assert len(set(wording[kind])) == len(wording[kind])
        for text in wording[kind]:
            assert sorted(re.findall(r"\{(\w)\}", text)) == sorted(slots), text
    assert re.findall(r"\{(\w)\}", wording["answer"]) == ["a"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_statement_holds_the_thing_and_the_answer(corpus, language):
    for fact in corpus.facts:
        words = fact.slots[language]
        for wording in range(wordings.statement_count(fact.subject)):
            sentence = wordings.statement(fact, language, wording).casefold()
            assert words["s"].casefold() in sentence
            assert words["a"].casefold() in sentence


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_question_holds_the_thing_and_not_the_answer(corpus, language):
    for fact in corpus.facts:
        words = fact.slots[language]
        for question in wordings.questions(fact, language):
            assert words["s"].casefold() in question.casefold()
            assert words["a"].casefold() not in question.casefold(), fact.key
        assert words["a"] in wordings.answer(fact, language)


def test_sentences_begin_and_end_as_their_language_has_it(corpus):
    for fact in corpus.facts:
        for language in LANGUAGES:
            statements = [
                wordings.statement(fact, language, wording) for wording in range(wordings.statement_count(fact.subject))
            ]
            questions = wordings.questions(fact, language)
            assert all(text[0] == text[0].upper() for text in [*statements, *questions])
            assert all(text.endswith("。" if language == "zh" else ".") for text in statements)
            assert all(text.endswith("？" if language == "zh" else "?") for text in questions)
            assert not any("  " in text or "{" in text for text in [*statements, *questions])


def test_the_article_of_a_territory_is_said_once(corpus):
    for fact in corpus.facts:
        for wording in range(wordings.statement_count(fact.subject)):
            assert "the the " not in wordings.statement(fact, "en", wording).casefold()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_prompt_ends_where_the_answer_begins(language):
    question = "Which?" if language != "zh" else "哪个？"
    prompt = wordings.prompt(question, language)
    assert question in prompt
    assert prompt == prompt.strip()
    assert prompt.endswith((":", "："))
    assert wordings.answer_separator(language) == ("" if language == "zh" else " ")
