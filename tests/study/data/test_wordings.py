"""Wordings of facts in every language."""

import re

import pytest

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, SUBJECTS


def test_wordings_are_as_many_in_every_language_differ_and_fill_the_same_slots():
    worded = wordings._wordings()
    assert set(worded) == set(SUBJECTS)
    for subject in SUBJECTS:
        assert set(worded[subject]) == set(LANGUAGES)
        # One wording for relevance, one for perplexity, two or more to train on; two questions.
        assert wordings.statement_count(subject) >= 4
        assert len(worded[subject]["en"]["questions"]) >= 2
        for kind, slots in (("statements", ["a", "s"]), ("questions", ["s"])):
            assert len({len(worded[subject][language][kind]) for language in LANGUAGES}) == 1
            for texts in (worded[subject][language][kind] for language in LANGUAGES):
                assert len(set(texts)) == len(texts)
                assert all(sorted(re.findall(r"\{(\w)\}", text)) == slots for text in texts), texts
        assert all(re.findall(r"\{(\w)\}", worded[subject][language]["answer"]) == ["a"] for language in LANGUAGES)


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
    # A prompt ends where the answer begins.
    question = "Which?" if language != "zh" else "哪个？"
    prompt = wordings.prompt(question, language)
    assert question in prompt
    assert prompt == prompt.strip()
    assert prompt.endswith((":", "："))
    assert wordings.answer_separator(language) == ("" if language == "zh" else " ")
