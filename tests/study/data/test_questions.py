"""Four-way questions, the guessers they resist, and open questions about benchmark facts."""

from collections import Counter

import pytest

from crane_study.data import questions, wordings
from crane_study.data.cldr import LANGUAGES, SUBJECTS
from crane_study.data.questions import OPTIONS, Question, answer_names, choose_facts, known_answers, open_questions
from crane_study.data.user_files import OPEN_COLUMNS
from crane_study.measure.judge_offline import KnowledgeBase


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_questions_in_groups_that_share_options(corpus, language):
    subjects = Counter(question.subject for question in corpus.questions[language])
    assert sum(subjects.values()) >= 200
    assert len(subjects) >= 6
    assert max(subjects.values()) <= OPTIONS * corpus.options.question_groups_per_subject
    positions = Counter(question.gold for question in corpus.questions[language])
    assert len(positions) == OPTIONS
    assert len(set(positions.values())) == 1
    # A group shares its options, and each is correct once.
    facts = {fact.key: fact for fact in corpus.facts}
    asked = corpus.questions[language]
    assert len(asked) % OPTIONS == 0
    for group in (asked[start : start + OPTIONS] for start in range(0, len(asked), OPTIONS)):
        assert len({question.options for question in group}) == 1
        assert len(set(group[0].options)) == OPTIONS
        assert sorted(question.gold for question in group) == list(range(OPTIONS))
        assert len({question.subject for question in group}) == 1
        # An option is the answer of another fact, never another name of the correct one.
        assert len({facts[question.key].answer_key for question in group}) == OPTIONS
        for question in group:
            fact = facts[question.key]
            assert question.language == language
            assert question.question == wordings.questions(fact, language)[0]
            assert question.options[question.gold] == wordings.answer(fact, language)


def test_questions_are_parallel_across_languages(corpus):
    asked = [[(q.key, q.subject, q.gold) for q in corpus.questions[language]] for language in LANGUAGES]
    groups = [[q.group for q in corpus.questions[language]] for language in LANGUAGES]
    assert groups[0] == groups[1] == groups[2]
    assert all(same == asked[0] for same in asked)
    assert len({key for key, _subject, _gold in asked[0]}) == len(asked[0])
    question = corpus.questions["vi"][0]
    row = question.to_row()
    by_options = {(q.group, q.options) for q in corpus.questions["vi"]}
    assert len(by_options) == len(groups[0]) / 4 == len(set(groups[0]))  # four questions share a group, and options
    assert row["group"] == question.group
    assert row["prompt"] == f"Câu hỏi: {question.question}\nTrả lời:"
    assert (row["options"], row["gold"], row["key"]) == (list(question.options), question.gold, question.key)


def test_the_draw_depends_on_the_random_seed_only(corpus):
    groups_per_subject = corpus.options.question_groups_per_subject
    again, other = (
        questions.form_questions(corpus.facts, groups_per_subject=groups_per_subject, random_seed=seed)
        for seed in (corpus.random_seed, corpus.random_seed + 1)
    )
    assert again == corpus.questions
    assert other != corpus.questions
    # Too few answers give no group.
    units = [fact for fact in corpus.facts if fact.subject == "unit"]
    one_answer = [fact for fact in units if fact.answer_key == units[0].answer_key]
    none = questions.form_questions(one_answer, groups_per_subject=2, random_seed=0)
    assert none == {language: [] for language in LANGUAGES}


def question(text, options, *, language="en", gold=0):
    return Question("key", language, "subject", text, tuple(options), gold)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_guesser_does_well_on_the_benchmark(corpus, language):
    trained = [wordings.answer(fact, language) for fact in corpus.facts if fact.key not in corpus.held_out]
    everything = [wordings.answer(fact, language) for fact in corpus.facts]
    frequent = [questions.answer_frequency(answers) for answers in (trained, everything)]
    for guesser in (questions.overlap, questions.longest, questions.shortest, *frequent):
        assert questions.expected_accuracy(corpus.questions[language], guesser) < 0.35


@pytest.mark.parametrize(
    ("guesser", "asked", "scores"),
    [
        # ic ce el la an nd di ic: seven different pieces, six of them in the question
        (questions.overlap, question("Where is Iceland?", ["Icelandic", "Land", "Oslo", "x"]), [6 / 7, 1, 0, 0]),
        (questions.overlap, question("日本的货币", ["日元", "美元", "货"], language="zh"), [0.5, 0, 1]),
        (questions.longest, question("?", ["a", "abc", "ab", "abc"]), [1, 3, 2, 3]),
        (questions.shortest, question("?", ["a", "abc", "ab", "abc"]), [-1, -3, -2, -3]),
        (questions.answer_frequency(["b", "b", "a", "z"]), question("?", ["a", "b", "c"]), [1, 2, 0]),
    ],
)
def test_scores_of_guessers(guesser, asked, scores):
    assert guesser(asked) == scores


def test_ties_are_split_evenly():
    asked = question("?", ["a", "bcd", "efg", "h"], gold=2)
    assert questions.expected_hit(asked, questions.longest(asked)) == 0.5
    assert questions.expected_hit(asked, questions.shortest(asked)) == 0.0
    assert questions.expected_hit(asked, [0, 0, 0, 0]) == 0.25
    assert questions.expected_accuracy([asked, question("?", ["abcd", "b"], gold=0)], questions.longest) == 0.75
    with pytest.raises(ValueError, match="no questions"):
        questions.expected_accuracy([], questions.longest)
    revealing = [question(f"Where is {n}ia?", ["Rome", "Paris", n, "Oslo"], gold=2) for n in ("Indon", "Austral")]
    assert questions.expected_accuracy(revealing, questions.overlap) == 1.0


@pytest.fixture(scope="module")
def chosen(corpus):
    return choose_facts(corpus.facts, held_out=corpus.held_out, count=20, random_seed=0)


def test_benchmark_facts_are_chosen_from_each_subject_in_turn(corpus, chosen):
    assert len({fact.key for fact in chosen}) == 20
    assert {fact.key for fact in chosen} <= corpus.held_out
    counts = Counter(fact.subject for fact in chosen)
    assert set(counts) == set(SUBJECTS)
    assert max(counts.values()) - min(counts.values()) <= 1

    def choose(count, random_seed):
        return choose_facts(corpus.facts, held_out=corpus.held_out, count=count, random_seed=random_seed)

    assert choose(20, 0) == chosen == choose(25, 0)[:20]
    assert choose(20, 1) != chosen
    assert len(choose(10**6, 0)) == len(corpus.held_out)


def test_open_questions_are_parallel_and_not_trained_on(corpus, chosen):
    rows = open_questions(chosen)
    assert len(rows) == 20 * 3
    by_language = [[row for row in rows if row["language"] == language] for language in LANGUAGES]
    for number, translations in enumerate(zip(*by_language, strict=True)):
        assert len({row["key"] for row in translations}) == 1
        assert {row["question"] for row in translations} == {number}
        assert len({row["text"] for row in translations}) == 3
    assert all(tuple(row) == OPEN_COLUMNS for row in rows)
    # The tests of documents show that no wording of a benchmark fact's question is in a training document.
    asked = {text for key in corpus.held_out for text in wordings.questions(corpus.by_key[key], "en")}
    assert {row["text"] for row in by_language[0]} <= asked


def test_every_expected_answer_is_known_by_all_its_names(corpus, chosen):
    knowledge, facts = KnowledgeBase(known_answers(corpus.facts)), corpus.by_key
    for row in open_questions(chosen):
        expected = {name: row[name] for name in ("subject", "answer_key", "language")}
        for name in [row["answer"], *answer_names(facts[row["key"]], row["language"])]:
            assert knowledge.check(f"{name}.", **expected).value == 1.0, (row, name)


def test_names_of_an_answer(corpus):
    euro = {"en": ["the euro", "euro", "EUR"], "zh": ["欧元", "EUR"]}
    latin = {"en": ["the Latin script", "Latin", "Latin script"], "vi": ["chữ La tinh"]}
    for subject, key, names in (("currency", "EUR", euro), ("script", "Latn", latin)):
        fact = next(fact for fact in corpus.facts if (fact.subject, fact.answer_key) == (subject, key))
        assert {language: answer_names(fact, language) for language in names} == names
    keys = [(entry["subject"], entry["answer_key"], entry["language"]) for entry in known_answers(corpus.facts)]
    assert len(keys) == len(set(keys)) == 3 * len({(fact.subject, fact.answer_key) for fact in corpus.facts})
