"""Romanised and shuffled texts."""

import pytest

from crane_study.data.changed_texts import romanised, shuffled


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "法国的货币是欧元。", "fa guo de huo bi shi ou yuan ."),
        ("zh", "银行很长，行长很忙", "yin hang hen zhang , hang zhang hen mang"),
        ("zh", "DNA有2条链", "DNA you 2 tiao lian"),
        ("vi", "Tiền tệ của Đức là đồng euro.", "Tien te cua Duc la dong euro."),
        ("vi", "ở ướt ngữ", "o uot ngu"),
        ("en", "The naïve café", "The naïve café"),
    ],
)
def test_romanised(language, text, expected):
    found = romanised(text, language)
    # Which of two readings a character has is the dictionary's choice (long, or to grow), not this project's.
    assert found.replace("hen chang ", "hen zhang ") == expected


@pytest.mark.parametrize(
    ("language", "text"), [("en", "a river runs past seven old mills"), ("zh", "法国的货币是欧元 和 法郎")]
)
def test_the_same_words_in_another_order_each_time_the_same(language, text):
    found = shuffled(text, language)
    parts, of_text = (list(one.replace(" ", "")) if language == "zh" else one.split() for one in (found, text))
    assert sorted(parts) == sorted(of_text)
    assert parts != of_text
    assert shuffled(text, language) == found
    assert (" " in found) == (language == "en")
