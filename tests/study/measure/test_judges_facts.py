"""Which answers a text names."""

import pytest

from crane_study.measure.judge_offline import KnowledgeBase


def entry(subject, key, language, *names):
    return {"subject": subject, "answer_key": key, "language": language, "names": list(names)}


KNOWLEDGE = KnowledgeBase(
    [
        entry("city", "NE", "en", "Niger"),
        entry("city", "NE", "zh", "尼日尔"),
        entry("city", "NG", "en", "Nigeria"),
        entry("city", "NG", "zh", "尼日利亚"),
        entry("city", "US", "en", "the United States", "United States"),
        entry("city", "US", "vi", "Hoa Kỳ"),
        entry("clock", "CE", "en", "Central European Time"),
        entry("clock", "C", "en", "Central Time"),
        entry("currency", "EUR", "en", "the euro", "euro", "EUR"),
        entry("currency", "EUR", "vi", "euro"),
        entry("script", "Ethi", "zh", "埃塞俄比亚文"),
        entry("city", "ET", "zh", "埃塞俄比亚"),
        entry("unit", "force", "zh", "力"),
        entry("unit", "mass", "zh", "质量"),
    ]
)


def check(text, subject, key, language="en"):
    return KNOWLEDGE.check(text, subject=subject, answer_key=key, language=language)


@pytest.mark.parametrize(
    ("text", "subject", "key", "language", "value"),
    [
        ("the United States", "city", "US", "en", 1.0),
        ("It lies in the UNITED STATES.", "city", "US", "en", 1.0),
        ("Hoa Kỳ", "city", "US", "vi", 1.0),
        ("Hoa Ky\u0300", "city", "US", "vi", 1.0),  # the same letter, decomposed
        ("Hoa Ky", "city", "US", "vi", 0.0),
        ("Hoa Kỳ", "city", "US", "en", 0.5),
        ("Niger, or Nigeria", "city", "NE", "en", 0.5),
        ("Niger, 尼日利亚", "city", "NE", "zh", 0.25),
        ("Nigeria", "city", "NE", "en", 0.0),
        ("", "city", "NE", "en", 0.0),
        ("Central European Time", "clock", "C", "en", 0.0),
        ("Central European Time", "clock", "CE", "en", 1.0),
        ("They pay in EUR.", "currency", "EUR", "en", 1.0),
        ("euro", "currency", "EUR", "vi", 1.0),
        ("neurology", "currency", "EUR", "en", 0.0),
        ("埃塞俄比亚文", "city", "ET", "zh", 0.0),
        ("在埃塞俄比亚。", "city", "ET", "zh", 1.0),
        ("用euro付款", "currency", "EUR", "en", 1.0),
        ("力。", "unit", "force", "zh", 1.0),
        ("压力", "unit", "force", "zh", 0.0),
    ],
)
def test_value(text, subject, key, language, value):
    assert check(text, subject, key, language).value == value


def test_answers_to_other_kinds_of_question_are_no_contradiction():
    found = check("Niger pays with the euro", "city", "NE")
    assert (found.named, found.contradicted, found.others) == (True, False, ())


def test_a_wrong_answer_is_told_by_its_name():
    found = check("nigeria and NIGERIA", "city", "NE")
    assert (found.named, found.contradicted, found.others) == (False, False, ("Nigeria",))


def test_nothing_known_finds_nothing():
    found = KnowledgeBase([]).check("Niger", subject="city", answer_key="NE", language="en")
    assert found.value == 0.0
