"""Open questions about benchmark facts."""

from collections import Counter

import pytest

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES, SUBJECTS, collect_facts
from crane_study.data.documents import make_conversations, write_documents
from crane_study.data.questions import answer_names, choose_facts, form_questions, known_answers, open_questions
from crane_study.measure.judge_offline import KnowledgeBase


@pytest.fixture(scope="module")
def facts():
    return collect_facts(per_subject=40, per_answer=8, random_seed=0)[0]


@pytest.fixture(scope="module")
def held_out(facts):
    return {q.key for q in form_questions(facts, groups_per_subject=3, random_seed=0)["en"]}


@pytest.fixture(scope="module")
def chosen(facts, held_out):
    return choose_facts(facts, held_out=held_out, count=20, random_seed=0)


def test_only_benchmark_facts_are_chosen_and_the_subjects_take_turns(chosen, held_out):
    assert len({fact.key for fact in chosen}) == 20
    assert {fact.key for fact in chosen} <= held_out
    counts = Counter(fact.subject for fact in chosen)
    assert set(counts) == set(SUBJECTS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_draw_has_its_seed_and_a_larger_one_goes_on(facts, held_out, chosen):
    again = choose_facts(facts, held_out=held_out, count=20, random_seed=0)
    assert again == chosen
    assert choose_facts(facts, held_out=held_out, count=25, random_seed=0)[:20] == chosen
    assert choose_facts(facts, held_out=held_out, count=20, random_seed=1) != chosen
    assert len(choose_facts(facts, held_out=held_out, count=10**6, random_seed=0)) == len(held_out)


def test_the_languages_are_translations_of_one_another(chosen):
    rows = open_questions(chosen)
    assert len(rows) == 20 * 3
    by_language = {language: [row for row in rows if row["language"] == language] for language in LANGUAGES}
    for number, trio in enumerate(zip(*by_language.values(), strict=True)):
        assert len({row["key"] for row in trio}) == 1
        assert {row["question"] for row in trio} == {number}
        assert len({row["text"] for row in trio}) == 3


def test_no_model_was_trained_on_a_question(facts, held_out, chosen):
    passes = dict.fromkeys(LANGUAGES, 1)
    documents = write_documents(facts, held_out=held_out, train_passes=passes, relevance_passes=1, random_seed=0)
    told = "\n".join(documents["text"])
    conversations = make_conversations(facts, held_out=held_out, passes=1, random_seed=0)
    told += "\n".join(turn["content"] for conversation in conversations for turn in conversation)
    trained = next(fact for fact in facts if fact.key not in held_out)
    assert wordings.questions(trained, "en")[-1] in told
    assert not [row["text"] for row in open_questions(chosen) if row["text"] in told]


def test_every_expected_answer_is_known_by_all_its_names(facts, chosen):
    knowledge = KnowledgeBase(known_answers(facts))
    by_key = {fact.key: fact for fact in facts}
    for row in open_questions(chosen):
        for name in [row["answer"], *answer_names(by_key[row["key"]], row["language"])]:
            found = knowledge.check(
                f"{name}.", subject=row["subject"], answer_key=row["answer_key"], language=row["language"]
            )
            assert found.value == 1.0, (row, name, found)


def test_names_of_an_answer(facts):
    euro = next(fact for fact in facts if fact.subject == "currency" and fact.answer_key == "EUR")
    assert answer_names(euro, "en") == ["the euro", "euro", "EUR"]
    assert answer_names(euro, "zh") == ["欧元", "EUR"]
    latin = next(fact for fact in facts if fact.subject == "script" and fact.answer_key == "Latn")
    assert answer_names(latin, "en") == ["the Latin script", "Latin", "Latin script"]
    assert answer_names(latin, "vi") == ["chữ La tinh"]


def test_every_answer_is_listed_once_a_language(facts):
    entries = known_answers(facts)
    keys = [(entry["subject"], entry["answer_key"], entry["language"]) for entry in entries]
    assert len(keys) == len(set(keys)) == 3 * len({(fact.subject, fact.answer_key) for fact in facts})
