from collections import Counter

import pytest

from crane_study.data.cldr import LANGUAGES, SUBJECTS, collect_facts


def test_enough_subjects_and_all_of_them_have_facts(corpus):
    assert len(SUBJECTS) >= 6
    assert {fact.subject for fact in corpus.facts} == set(SUBJECTS)


def test_every_fact_is_complete_in_every_language(corpus):
    for fact in corpus.facts:
        assert list(fact.slots) == list(LANGUAGES), fact.key
        for words in fact.slots.values():
            assert set(words) == {"s", "a"}
            assert all(word == word.strip() and word for word in words.values()), fact.key


def test_names_are_in_the_script_of_their_language(corpus):
    for fact in corpus.facts:
        chinese = "".join(fact.slots["zh"].values())
        latin = "".join([*fact.slots["en"].values(), *fact.slots["vi"].values()])
        assert any("\u4e00" <= character <= "\u9fff" for character in chinese), fact.key
        assert not any("\u4e00" <= character <= "\u9fff" for character in latin), fact.key


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
    """A sentence about the one would stand within a sentence about the other."""
    for language in LANGUAGES:
        space = "" if language == "zh" else " "
        for subject in SUBJECTS:
            names = [fact.slots[language]["s"] for fact in corpus.facts if fact.subject == subject]
            ends = [(name, longer) for name in names for longer in names if longer.endswith(space + name)]
            assert [pair for pair in ends if pair[0] != pair[1]] == []


def test_facts_with_one_answer_key_have_one_answer(corpus):
    answers = {}
    for fact in corpus.facts:
        said = tuple(fact.slots[language]["a"] for language in LANGUAGES)
        assert answers.setdefault((fact.subject, fact.answer_key), said) == said


def test_keys_are_unique_sorted_and_name_the_subject(corpus):
    keys = [fact.key for fact in corpus.facts]
    assert keys == sorted(set(keys))
    assert all(fact.key.startswith(f"{fact.subject}/") for fact in corpus.facts)


def test_the_limits_are_kept(corpus):
    of_subject = Counter(fact.subject for fact in corpus.facts)
    of_answer = Counter((fact.subject, fact.answer_key) for fact in corpus.facts)
    assert max(of_subject.values()) <= corpus.options.facts_per_subject
    assert max(of_answer.values()) <= corpus.options.facts_per_answer


def test_small_limits_are_kept_too():
    facts, _reports = collect_facts(per_subject=9, per_answer=2, random_seed=3)
    assert Counter(fact.subject for fact in facts) == dict.fromkeys(SUBJECTS, 9)
    assert max(Counter((fact.subject, fact.answer_key) for fact in facts).values()) == 2


def test_the_report_counts_what_was_kept_and_what_has_no_name(corpus):
    kept = Counter(fact.subject for fact in corpus.facts)
    assert [report.subject for report in corpus.reports] == list(SUBJECTS)
    for report in corpus.reports:
        assert report.kept == kept[report.subject]
        assert report.kept <= report.stated - max(report.unnamed.values(), default=0)
        assert set(report.unnamed) <= set(LANGUAGES)


def test_the_draw_is_the_seeds(corpus):
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
def test_facts_that_everyone_knows(everything, key, words):
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
