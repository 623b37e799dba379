import pytest

from crane_study.data import wordings
from crane_study.data.cldr import LANGUAGES
from crane_study.data.questions import (
    Question,
    answer_frequency,
    expected_accuracy,
    expected_hit,
    longest,
    overlap,
    shortest,
)


def question(text, options, *, language="en", gold=0):
    return Question("key", language, "subject", text, tuple(options), gold)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["overlap", "answer_frequency", "longest", "shortest"])
def test_no_guesser_does_well_on_the_benchmark(corpus, language, name):
    trained = [wordings.answer(fact, language) for fact in corpus.facts if fact.key not in corpus.held_out]
    everything = [wordings.answer(fact, language) for fact in corpus.facts]
    guessers = {
        "overlap": [overlap],
        "answer_frequency": [answer_frequency(trained), answer_frequency(everything)],
        "longest": [longest],
        "shortest": [shortest],
    }
    for guesser in guessers[name]:
        assert expected_accuracy(corpus.questions[language], guesser) < 0.35


def test_overlap_is_the_share_of_an_options_pieces_that_were_asked():
    scores = overlap(question("Where is Iceland?", ["Icelandic", "Land", "Oslo", "x"]))
    # ic ce el la an nd di ic -> seven different, six of them in the question; la an nd; os sl lo; none
    assert scores == [6 / 7, 1.0, 0.0, 0.0]
    assert overlap(question("日本的货币", ["日元", "美元", "货"], language="zh")) == [0.5, 0.0, 1.0]


def test_overlap_would_see_through_a_benchmark_that_gives_answers_away():
    asked = [question(f"Where is {name}ia?", ["Rome", "Paris", name, "Oslo"], gold=2) for name in ("Indon", "Austral")]
    assert expected_accuracy(asked, overlap) == 1.0


def test_lengths():
    asked = question("?", ["a", "abc", "ab", "abc"])
    assert longest(asked) == [1, 3, 2, 3]
    assert shortest(asked) == [-1, -3, -2, -3]


def test_answer_frequency():
    assert answer_frequency(["b", "b", "a", "z"])(question("?", ["a", "b", "c"])) == [1, 2, 0]


def test_ties_are_split_evenly():
    asked = question("?", ["a", "bcd", "efg", "h"], gold=2)
    assert expected_hit(asked, longest(asked)) == 0.5
    assert expected_hit(asked, shortest(asked)) == 0.0
    assert expected_hit(asked, [0, 0, 0, 0]) == 0.25
    assert expected_accuracy([asked, question("?", ["abcd", "b"], gold=0)], longest) == 0.75


def test_no_questions():
    with pytest.raises(ValueError, match="no questions"):
        expected_accuracy([], longest)
