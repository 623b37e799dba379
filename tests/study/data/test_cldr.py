"""Names from CLDR and the facts that are drawn from them."""

from collections import Counter

from crane_study.data import cldr
from crane_study.data.cldr import LANGUAGES, SUBJECTS, collect_facts

NAMES = {
    "territory": [
        ("FR", "en", "France"),
        ("FR", "zh", "法国"),
        ("FR", "vi", "Pháp"),
        ("NL", "en", "the Netherlands"),
        ("US", "en", "the United States"),
        ("BS", "en", "the Bahamas"),
        ("HK", "en", None),  # "Hong Kong SAR China"
        ("CC", "en", None),  # brackets
        ("XX", "en", None),
    ],
    "human_language": [("fr", "en", "French"), ("fr", "zh", "法语"), ("fr", "vi", "tiếng Pháp"), ("xxx", "en", None)],
    "script": [("Arab", "vi", "chữ Ả Rập")],
    "currency": [("EUR", "en", "euro"), ("JPY", "zh", "日元"), ("QQQ", "en", None)],
    "unit": [("length-kilometer", "en", "kilometer"), ("mass-kilogram", "zh", "千克"), ("no-such-unit", "en", None)],
    "quantity": [("mass", "zh", "质量"), ("no such class", "zh", None)],
    "city": [("Asia/Tokyo", "zh", "东京")],
    "time_zone": [("Japan", "en", "Japan Time"), ("Japan", "vi", "giờ Nhật Bản"), ("Nowhere", "en", None)],
}


def test_names():
    for kind, names in NAMES.items():
        for code, language, name in names:
            assert getattr(cldr, kind)(code, language) == name, code
    # Quantities have different names in every language.
    for names in zip(*cldr._QUANTITIES.values(), strict=True):
        assert len(set(names)) == len(cldr._QUANTITIES)


def test_every_fact_is_complete_and_in_the_script_of_each_language(corpus):
    def has_han(words):
        return any("\u4e00" <= character <= "\u9fff" for character in "".join(words.values()))

    assert {fact.subject for fact in corpus.facts} == set(SUBJECTS)
    for fact in corpus.facts:
        assert list(fact.slots) == list(LANGUAGES), fact.key
        for language, words in fact.slots.items():
            assert set(words) == {"s", "a"}
            assert all(word == word.strip() and word for word in words.values()), fact.key
            assert has_han(words) == (language == "zh"), fact.key
            name, answer = words["s"].casefold(), words["a"].casefold()
            assert name not in answer, fact.key
            assert answer not in name, fact.key


def test_names_of_a_subject_differ_and_none_is_the_end_of_a_longer_one(corpus):
    """A sentence about the one would be part of a sentence about the other."""
    for language in LANGUAGES:
        space = "" if language == "zh" else " "
        for subject in SUBJECTS:
            names = [fact.slots[language]["s"] for fact in corpus.facts if fact.subject == subject]
            assert len({name.casefold() for name in names}) == len(names)
            assert [(a, b) for a in names for b in names if a != b and b.endswith(space + a)] == []
    # Keys are sorted, and an answer key has one answer.
    keys, answers = [fact.key for fact in corpus.facts], {}
    assert keys == sorted(set(keys))
    for fact in corpus.facts:
        assert fact.key.startswith(f"{fact.subject}/")
        named = tuple(fact.slots[language]["a"] for language in LANGUAGES)
        assert answers.setdefault((fact.subject, fact.answer_key), named) == named


def test_limits_are_respected_and_reported(corpus):
    def most(facts, *attributes):
        return max(Counter(tuple(getattr(fact, name) for name in attributes) for fact in facts).values())

    assert most(corpus.facts, "subject") <= corpus.options.facts_per_subject
    assert most(corpus.facts, "subject", "answer_key") <= corpus.options.facts_per_answer
    facts, _reports = collect_facts(per_subject=9, per_answer=2, random_seed=3)
    assert Counter(fact.subject for fact in facts) == dict.fromkeys(SUBJECTS, 9)
    assert most(facts, "subject", "answer_key") == 2
    # The report counts kept and unnamed facts.
    kept = Counter(fact.subject for fact in corpus.facts)
    assert [report["subject"] for report in corpus.reports] == list(SUBJECTS)
    for report in corpus.reports:
        assert report["kept"] == kept[report["subject"]]
        assert report["kept"] <= report["stated"] - max(report[f"unnamed_{language}"] for language in LANGUAGES)


def test_the_draw_depends_on_the_random_seed_only(corpus):
    options = {"per_subject": corpus.options.facts_per_subject, "per_answer": corpus.options.facts_per_answer}
    assert collect_facts(**options, random_seed=corpus.random_seed) == (corpus.facts, corpus.reports)
    assert collect_facts(**options, random_seed=corpus.random_seed + 1)[0] != corpus.facts


WELL_KNOWN = {
    "currency/CN": {"en": ("China", "Chinese yuan"), "zh": ("中国", "人民币")},
    "language/BR": {"en": ("Brazil", "Portuguese"), "zh": ("巴西", "葡萄牙语")},
    "city/Africa/Cairo": {"en": ("Cairo", "Egypt"), "zh": ("开罗", "埃及"), "vi": ("Cairo", "Ai Cập")},
    "unit/mass-kilogram": {"en": ("kilogram", "mass"), "zh": ("千克", "质量")},
    "script/ru": {"en": ("Russian", "Cyrillic")},
}
LEFT_OUT = {
    "currency/JP",  # Japan: Japanese yen
    "homeland/tr",  # 土耳其语: 土耳其
    "city/Asia/Singapore",  # Singapore: Singapore
    "unit/mass-gram",  # 克, which ends 千克
}


def test_well_known_facts():
    facts = {fact.key: fact for fact in collect_facts(per_subject=10**6, per_answer=10**6, random_seed=0)[0]}
    for key, words in WELL_KNOWN.items():
        for language, (thing, answer) in words.items():
            assert facts[key].slots[language] == {"s": thing, "a": answer}
    assert not LEFT_OUT & set(facts)
