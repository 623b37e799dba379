"""Names from CLDR and the facts that are drawn from them."""

from collections import Counter

import pytest

from crane_study.data import cldr
from crane_study.data.cldr import LANGUAGES, SUBJECTS, collect_facts


@pytest.mark.parametrize(
    ("kind", "code", "language", "name"),
    [
        ("territory", "FR", "en", "France"),
        ("territory", "FR", "zh", "法国"),
        ("territory", "FR", "vi", "Pháp"),
        ("territory", "NL", "en", "the Netherlands"),
        ("territory", "US", "en", "the United States"),
        ("territory", "BS", "en", "the Bahamas"),
        ("territory", "GB", "vi", "Vương quốc Anh"),
        ("territory", "HK", "en", None),  # "Hong Kong SAR China"
        ("territory", "CC", "en", None),  # brackets
        ("territory", "XX", "en", None),
        ("human_language", "fr", "en", "French"),
        ("human_language", "fr", "zh", "法语"),
        ("human_language", "fr", "vi", "tiếng Pháp"),
        ("human_language", "xxx", "en", None),
        ("script", "Arab", "vi", "chữ Ả Rập"),
        ("currency", "EUR", "en", "euro"),
        ("currency", "JPY", "zh", "日元"),
        ("currency", "QQQ", "en", None),
        ("unit", "length-kilometer", "en", "kilometer"),
        ("unit", "mass-kilogram", "zh", "千克"),
        ("unit", "no-such-unit", "en", None),
        ("quantity", "mass", "zh", "质量"),
        ("quantity", "no such class", "zh", None),
        ("city", "Asia/Tokyo", "zh", "东京"),
        ("time_zone", "Japan", "en", "Japan Time"),
        ("time_zone", "Japan", "vi", "giờ Nhật Bản"),
        ("time_zone", "Nowhere", "en", None),
    ],
)
def test_names(kind, code, language, name):
    assert getattr(cldr, kind)(code, language) == name


def test_quantities_have_different_names_in_every_language():
    for names in zip(*cldr._QUANTITIES.values(), strict=True):
        assert len(set(names)) == len(cldr._QUANTITIES)


# --- facts ---------------------------------------------------------------------------------------------------


def test_every_subject_has_facts(corpus):
    assert len(SUBJECTS) >= 6
    assert {fact.subject for fact in corpus.facts} == set(SUBJECTS)


def test_every_fact_is_complete_and_in_the_script_of_each_language(corpus):
    def has_han(words):
        return any("\u4e00" <= character <= "\u9fff" for character in "".join(words.values()))

    for fact in corpus.facts:
        assert list(fact.slots) == list(LANGUAGES), fact.key
        for language, words in fact.slots.items():
            assert set(words) == {"s", "a"}
            assert all(word == word.strip() and word for word in words.values()), fact.key
            assert has_han(words) == (language == "zh"), fact.key


def test_no_name_reveals_the_answer(corpus):
    for fact in corpus.facts:
        for words in fact.slots.values():
            name, answer = words["s"].casefold(), words["a"].casefold()
            assert name not in answer, fact.key
            assert answer not in name, fact.key


def test_no_two_facts_of_a_subject_ask_about_the_same_name(corpus):
    for language in LANGUAGES:
        names = Counter((fact.subject, fact.slots[language]["s"].casefold()) for fact in corpus.facts)
        assert max(names.values()) == 1


def test_no_name_is_the_end_of_a_longer_one(corpus):
    """A sentence about the one would be part of a sentence about the other."""
    for language in LANGUAGES:
        space = "" if language == "zh" else " "
        for subject in SUBJECTS:
            names = [fact.slots[language]["s"] for fact in corpus.facts if fact.subject == subject]
            ends = [(name, longer) for name in names for longer in names if longer.endswith(space + name)]
            assert [pair for pair in ends if pair[0] != pair[1]] == []


def test_facts_with_one_answer_key_have_one_answer(corpus):
    answers = {}
    for fact in corpus.facts:
        named = tuple(fact.slots[language]["a"] for language in LANGUAGES)
        assert answers.setdefault((fact.subject, fact.answer_key), named) == named


def test_keys_are_unique_sorted_and_name_the_subject(corpus):
    keys = [fact.key for fact in corpus.facts]
    assert keys == sorted(set(keys))
    assert all(fact.key.startswith(f"{fact.subject}/") for fact in corpus.facts)


def test_limits_are_respected(corpus):
    def most(facts, *attributes):
        return max(Counter(tuple(getattr(fact, name) for name in attributes) for fact in facts).values())

    assert most(corpus.facts, "subject") <= corpus.options.facts_per_subject
    assert most(corpus.facts, "subject", "answer_key") <= corpus.options.facts_per_answer
    facts, _reports = collect_facts(per_subject=9, per_answer=2, random_seed=3)
    assert Counter(fact.subject for fact in facts) == dict.fromkeys(SUBJECTS, 9)
    assert most(facts, "subject", "answer_key") == 2


def test_the_report_counts_kept_and_unnamed_facts(corpus):
    kept = Counter(fact.subject for fact in corpus.facts)
    assert [report["subject"] for report in corpus.reports] == list(SUBJECTS)
    for report in corpus.reports:
        assert report["kept"] == kept[report["subject"]]
        assert report["kept"] <= report["stated"] - max(report[f"unnamed_{language}"] for language in LANGUAGES)


def test_the_draw_depends_on_the_random_seed_only(corpus):
    options = {"per_subject": corpus.options.facts_per_subject, "per_answer": corpus.options.facts_per_answer}
    assert collect_facts(**options, random_seed=corpus.random_seed) == (corpus.facts, corpus.reports)
    assert collect_facts(**options, random_seed=corpus.random_seed + 1)[0] != corpus.facts


@pytest.fixture(scope="module")
def everything():
    return {fact.key: fact for fact in collect_facts(per_subject=10**6, per_answer=10**6, random_seed=0)[0]}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("currency/CN", {"en": ("China", "Chinese yuan"), "zh": ("中国", "人民币")}),
        ("language/BR", {"en": ("Brazil", "Portuguese"), "zh": ("巴西", "葡萄牙语")}),
        ("city/Africa/Cairo", {"en": ("Cairo", "Egypt"), "zh": ("开罗", "埃及"), "vi": ("Cairo", "Ai Cập")}),
        ("unit/mass-kilogram", {"en": ("kilogram", "mass"), "zh": ("千克", "质量")}),
        ("script/ru", {"en": ("Russian", "Cyrillic")}),
    ],
)
def test_well_known_facts(everything, key, words):
    for language, (thing, answer) in words.items():
        assert everything[key].slots[language] == {"s": thing, "a": answer}


@pytest.mark.parametrize(
    "key",
    [
        "currency/JP",  # Japan: Japanese yen
        "homeland/tr",  # 土耳其语: 土耳其
        "city/Asia/Singapore",  # Singapore: Singapore
        "unit/mass-gram",  # 克, which ends 千克
    ],
)
def test_facts_that_are_left_out(everything, key):
    assert key not in everything
