"""In which language a text may be."""

import math

import pytest

from crane_lib.errors import CraneError
from crane_study.measure.judge_offline import LanguageIdentifier, runs

TEXTS = {
    "en": [
        "The currency of Germany is the euro. Most speakers of Welsh live in the United Kingdom.",
        "Wages in Mexico are paid in one currency, the Mexican peso; the government of Mexico works in Spanish.",
        "The time zone of Tashkent is Uzbekistan Time, and the people of Tashkent live in Uzbekistan.",
    ],
    "zh": ["德国的货币是欧元。墨西哥的官方语言是西班牙语。塔什干的时区是乌兹别克斯坦时间。"],
    "vi": [
        "Đơn vị tiền tệ của Đức là euro. Phần lớn người nói tiếng Wales sống ở Vương quốc Anh.",
        "Tiền lương ở Mexico được trả bằng peso Mexico; chính quyền Mexico làm việc bằng tiếng Tây Ban Nha.",
        "Múi giờ của Tashkent là giờ Uzbekistan, cư dân Tashkent sống ở Uzbekistan.",
    ],
}


@pytest.fixture(scope="module")
def identifier():
    return LanguageIdentifier(TEXTS)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("the people of Germany", {"en": 1.0, "zh": 0.0, "vi": 0.0}),
        ("người dân ở Đức", {"en": 0.0, "zh": 0.0, "vi": 1.0}),
        ("西班牙语", {"en": 0.0, "zh": 1.0, "vi": 0.0}),
        ("Mexico", {"en": 1.0, "zh": 0.0, "vi": 1.0}),  # the same name in both
        ("Uzbekistan", {"en": 1.0, "zh": 0.0, "vi": 1.0}),
        ("the euro 欧元", {"en": 7 / 9, "zh": 2 / 9, "vi": 0.0}),
        ("Привет", {"en": 0.0, "zh": 0.0, "vi": 0.0}),
    ],
)
def test_share(identifier, text, shares):
    assert {language: identifier.share(text, language) for language in shares} == pytest.approx(shares)


def test_whole_sentences_are_told_apart(identifier):
    for language, own in TEXTS.items():
        for sentence in own:
            assert identifier.share(sentence, language) == 1.0
            assert all(identifier.share(sentence, other) < 0.2 for other in TEXTS if other != language)


@pytest.mark.parametrize("text", ["", "  ", "12.5 %", "。？"])
def test_a_text_without_letters_has_no_language(identifier, text):
    assert math.isnan(identifier.share(text, "en"))


def test_runs_are_cut_where_the_script_changes():
    assert runs("The Euro, 欧元\nKrone!") == [("LATIN", "the euro"), ("CJK", "欧元"), ("LATIN", "krone")]


def test_a_language_without_letters_is_refused():
    with pytest.raises(CraneError, match="the texts in 'zh' have no letters"):
        LanguageIdentifier({"en": ["a"], "zh": ["12"]})
