"""The offline judge's rule, and the agreement of two judges."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from crane_lib.errors import CraneError
from crane_study.measure.judge_offline import OfflineJudge, agreement, score_of_parts

NAN = float("nan")
TEXTS = {
    "en": ["The city of Niamey lies in Niger. The people of Lyon live in France and speak French."],
    "vi": ["Thành phố Niamey nằm ở Niger. Cư dân Lyon sống ở Pháp và nói tiếng Pháp."],
}
KNOWLEDGE = [
    {"subject": "city", "answer_key": key, "language": language, "names": [name]}
    for key, language, name in [
        ("FR", "en", "France"),
        ("FR", "vi", "Pháp"),
        ("NE", "en", "Niger"),
        ("NE", "vi", "Niger"),
    ]
]


def questions(answer="France", key="FR"):
    return pd.DataFrame(
        {
            "language": ["en", "vi"],
            "question": [0, 0],
            "key": "city/Lyon",
            "subject": "city",
            "text": ["Where does Lyon lie?", "Lyon nằm ở đâu?"],
            "answer": [answer, answer and "Pháp"],
            "answer_key": key,
        }
    )


def answered(rows):
    """Frame of answers from (method, language, answer, nll, tokens)."""
    frame = pd.DataFrame(rows, columns=["method", "language", "answer", "nll", "nll_tokens"])
    return frame.assign(question=0, text="?", selected_on="", budget="", masked_language="", random_seed=-1)


UNMASKED = [("none", "en", "France", 1.0, 2), ("none", "vi", "Pháp", 3.0, 2)]


def score(rows, *, asked=None, knowledge=KNOWLEDGE):
    return OfflineJudge(questions() if asked is None else asked, knowledge, TEXTS).score(answered([*UNMASKED, *rows]))[
        2:
    ]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((1, 1, 1), 10.0),
        ((0, 0, 0), 1.0),
        ((1, 0, 0), 7.0),
        ((0, 1, 0), 2.5),
        ((0, 0, 1), 2.5),
        ((0.5, 1, 0.5), 1 + 3 + 1.5 + 0.75),
        ((NAN, 1, 1), 10.0),
        ((NAN, 1, 0), 5.5),
        ((NAN, 0, 0), 1.0),
    ],
)
def test_score_of_parts(parts, expected):
    assert score_of_parts(dict(zip(("facts", "language_kept", "fluency"), parts, strict=True))) == pytest.approx(
        expected
    )


def test_no_part_no_score():
    assert math.isnan(score_of_parts({"facts": NAN, "language_kept": NAN, "fluency": NAN}))


def test_the_parts_of_an_answer():
    found = score(
        [
            ("m", "en", "France", 1.0, 2),
            ("m", "en", "Niger", 5.0, 2),
            ("m", "en", "Pháp", 2.0, 4),
            ("m", "vi", "Pháp", 1.0, 2),
            ("m", "vi", "Pháp, Niger", 6.0, 2),
        ]
    )
    assert found["facts"].tolist() == [1.0, 0.0, 0.5, 1.0, 0.5]
    assert found["language_kept"].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]
    # A token of the unmasked answers costs 0.5 nats in English and 1.5 in Vietnamese.
    np.testing.assert_allclose(found["fluency"], [1.0, np.exp(-2.0), 1.0, 1.0, np.exp(-1.5)])
    expected = [
        1 + 6 * f + 1.5 * k + 1.5 * g
        for f, k, g in zip(found["facts"], found["language_kept"], found["fluency"], strict=True)
    ]
    np.testing.assert_allclose(found["score"], expected)
    assert found["reason"].tolist()[1] == "'France' not named, but Niger; 100% in en; fluency 0.14"
    assert found["reason"].tolist()[2] == "'France' named in another language; 0% in en; fluency 1.00"
    assert found["reason"].tolist()[4].startswith("'Pháp' named, also Niger;")
    assert (found["judgings"] == 1).all()


@pytest.mark.parametrize("text", ["", "...", "12"])
def test_an_answer_without_words_gets_the_lowest_score(text):
    found = score([("m", "en", text, 0.1, 1)])
    assert found["score"].tolist() == [1.0]
    assert found["reason"].tolist() == ["no words; 'France' not named"]


def test_without_an_expected_answer_form_alone_is_judged():
    found = score([("m", "en", "Niger", 1.0, 2), ("m", "en", "Pháp", 1.0, 2)], asked=questions("", ""), knowledge=[])
    assert found["facts"].isna().all()
    assert found["score"].tolist() == [10.0, 5.5]
    assert found["reason"].tolist()[0].startswith("no expected answer;")


def test_scores_lie_from_1_to_10_and_are_the_same_twice():
    texts = ["", "France", "Niger", "Pháp", "France Niger", "语", "the city of France", "sống ở Pháp"]
    rows = [("m", k, t, n, 3) for k, t, n in itertools.product(("en", "vi"), texts, (0.0, 2.0, 90.0))]
    found = score(rows)
    assert found["score"].between(1, 10).all()
    assert found["score"].nunique() > 10
    pd.testing.assert_frame_equal(found, score(rows))


def test_fluency_needs_the_unmasked_answers():
    with pytest.raises(CraneError, match="no answers of the unmasked model in 'vi'; judge them together"):
        OfflineJudge(questions(), KNOWLEDGE, TEXTS).score(answered([UNMASKED[0], ("m", "vi", "Pháp", 1.0, 2)]))


# --- agreement -----------------------------------------------------------------------------------------------


def judged(scores):
    """Items of two judges from language -> pairs of scores."""
    records = []
    for language, pairs in scores.items():
        for number, pair in enumerate(pairs):
            for judge, value in zip(("endpoint", "offline"), pair, strict=True):
                mask = {"selected_on": "", "method": "none", "budget": "", "masked_language": "", "random_seed": -1}
                records.append({**mask, "language": language, "question": number, "judge": judge, "score": value})
    return pd.DataFrame(records)


def test_agreement():
    pairs = {"en": [(1, 2), (5, 4.5), (9, 5), (3, 3), (NAN, 9)], "vi": [(4, 4), (4, 6)], "zh": [(NAN, 1), (2, NAN)]}
    table = agreement(judged(pairs)).set_index("language")
    assert table["n"].to_dict() == {"en": 4, "vi": 2, "zh": 0, "all": 6}
    one, other = [1, 5, 9, 3], [2, 4.5, 5, 3]
    assert table.loc["en", "rank_correlation"] == pytest.approx(spearmanr(one, other).statistic)
    assert table.loc["en", "mean_absolute_difference"] == pytest.approx((1 + 0.5 + 4 + 0) / 4)
    assert table.loc["en", "within_1"] == 0.75
    assert math.isnan(table.loc["vi", "rank_correlation"])  # one judge gave always the same
    assert table.loc["all", "mean_absolute_difference"] == pytest.approx((5.5 + 2) / 6)
    assert table.loc["zh"].drop("n").isna().all()


def test_agreement_needs_two_judges():
    items = judged({"en": [(1, 2)]})
    with pytest.raises(CraneError, match="needs two judges, saw offline"):
        agreement(items[items["judge"] == "offline"])
