"""Offline judge: facts, language, fluency and the score they make; agreement of two judges."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from lingua import Language, LanguageDetectorBuilder
from scipy.stats import spearmanr

from crane_lib.errors import CraneError
from crane_study.measure import judge_offline
from crane_study.measure.judge_offline import KnowledgeBase, LanguageIdentifier, OfflineJudge, agreement
from crane_study.measure.rows import mask_labels

NAN = float("nan")


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
def test_value_of_a_finding(text, subject, key, language, value):
    assert KNOWLEDGE.check(text, subject=subject, answer_key=key, language=language).value == value


def test_only_answers_to_the_same_kind_of_question_contradict():
    for text, named, others in (("Niger pays with the euro", True, ()), ("nigeria and NIGERIA", False, ("Nigeria",))):
        found = KNOWLEDGE.check(text, subject="city", answer_key="NE", language="en")
        assert (found.named, found.others) == (named, others)
    assert KnowledgeBase([]).check("Niger", subject="city", answer_key="NE", language="en").value == 0.0


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


IDENTIFIER = LanguageIdentifier(TEXTS)


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
        *((text, {"en": NAN}) for text in ("", "  ", "12.5 %", "。？")),
    ],
)
def test_share_of_a_language(text, shares):
    found = {language: IDENTIFIER.share(text, language) for language in shares}
    assert found == pytest.approx(shares, nan_ok=True)


def test_whole_sentences_are_told_apart():
    for language, own in TEXTS.items():
        for sentence in own:
            assert IDENTIFIER.share(sentence, language) == 1.0
            assert all(IDENTIFIER.share(sentence, other) < 0.2 for other in TEXTS if other != language)
    with pytest.raises(CraneError, match="the texts in 'zh' have no letters"):
        LanguageIdentifier({"en": ["a"], "zh": ["12"]})


def test_a_general_identifier_fails_on_answers_that_are_names():
    """Correct Vietnamese answers of the embedded study; therefore the judge is trained on the study's texts."""
    languages = {"en": Language.ENGLISH, "zh": Language.CHINESE, "vi": Language.VIETNAMESE}
    lingua = LanguageDetectorBuilder.from_languages(*languages.values()).build()
    names = ["Mexico", "euro", "giờ Uzbekistan"]
    assert [IDENTIFIER.share(name, "vi") for name in names] == [1.0, 1.0, 1.0]
    assert [lingua.detect_language_of(name) == languages["vi"] for name in names] == [False, False, True]


CITY_TEXTS = {
    "en": ["The city of Niamey lies in Niger. The people of Lyon live in France and speak French."],
    "vi": ["Thành phố Niamey nằm ở Niger. Cư dân Lyon sống ở Pháp và nói tiếng Pháp."],
}
_NAMES = [("FR", "en", "France"), ("FR", "vi", "Pháp"), ("NE", "en", "Niger"), ("NE", "vi", "Niger")]
CITIES = [entry("city", *named) for named in _NAMES]
UNMASKED = [("none", "en", "France", 1.0, 2), ("none", "vi", "Pháp", 3.0, 2)]


def questions(answer="France", key="FR"):
    rows = [("en", "Where does Lyon lie?", answer), ("vi", "Lyon nằm ở đâu?", answer and "Pháp")]
    frame = pd.DataFrame(rows, columns=["language", "text", "answer"])
    return frame.assign(question=0, key="city/Lyon", subject="city", answer_key=key)


def answered(rows):
    """Frame of answers from (method, language, answer, nll, tokens)."""
    frame = pd.DataFrame(rows, columns=["method", "language", "answer", "nll", "nll_tokens"])
    return frame.assign(question=0, text="?", selected_on="", budget="", masked_language="", random_seed=-1)


def score(rows, *, asked=None, knowledge=CITIES):
    judge = OfflineJudge(questions() if asked is None else asked, knowledge, CITY_TEXTS)
    return judge.score(answered([*UNMASKED, *rows]))[2:]


SCORES = {(1, 1, 1): 10.0, (0, 0, 0): 1.0, (1, 0, 0): 7.0, (0, 1, 0): 2.5, (0, 0, 1): 2.5, (0.5, 1, 0.5): 6.25}
SCORES |= {(NAN, 1, 1): 10.0, (NAN, 1, 0): 5.5, (NAN, 0, 0): 1.0, (NAN, NAN, NAN): NAN}


def test_the_parts_of_an_answer_and_their_score():
    found = [judge_offline.score_of_parts(dict(zip(judge_offline.PARTS, parts, strict=True))) for parts in SCORES]
    assert found == pytest.approx(list(SCORES.values()), nan_ok=True)
    answers = [("en", "France", 1.0, 2), ("en", "Niger", 5.0, 2), ("en", "Pháp", 2.0, 4)]
    answers += [("vi", "Pháp", 1.0, 2), ("vi", "Pháp, Niger", 6.0, 2)]
    found = score([("m", *answer) for answer in answers])
    assert found["facts"].tolist() == [1.0, 0.0, 0.5, 1.0, 0.5]
    assert found["language_kept"].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]
    # A token of the unmasked answers costs 0.5 nats in English and 1.5 in Vietnamese.
    np.testing.assert_allclose(found["fluency"], [1.0, np.exp(-2.0), 1.0, 1.0, np.exp(-1.5)])
    np.testing.assert_allclose(
        found["score"], 1 + 6 * found["facts"] + 1.5 * found["language_kept"] + 1.5 * found["fluency"]
    )
    reasons = found["reason"].tolist()
    assert reasons[1] == "'France' not named, but Niger; 100% in en; fluency 0.14"
    assert reasons[2] == "'France' named in another language; 0% in en; fluency 1.00"
    assert reasons[4].startswith("'Pháp' named, also Niger;")
    assert (found["judgings"] == 1).all()


def test_an_answer_without_words_gets_the_lowest_score():
    found = score([("m", "en", text, 0.1, 1) for text in ("", "...", "12")])
    assert found["score"].tolist() == [1.0] * 3
    assert found["reason"].tolist() == ["no words; 'France' not named"] * 3
    # Without an expected answer form alone is judged.
    found = score([("m", "en", "Niger", 1.0, 2), ("m", "en", "Pháp", 1.0, 2)], asked=questions("", ""), knowledge=[])
    assert found["facts"].isna().all()
    assert found["score"].tolist() == [10.0, 5.5]
    assert found["reason"].tolist()[0].startswith("no expected answer;")


def test_scores_are_from_1_to_10_and_reproducible():
    texts = ["", "France", "Niger", "Pháp", "France Niger", "语", "the city of France", "sống ở Pháp"]
    rows = [("m", k, t, n, 3) for k, t, n in itertools.product(("en", "vi"), texts, (0.0, 2.0, 90.0))]
    found = score(rows)
    assert found["score"].between(1, 10).all()
    assert found["score"].nunique() > 10
    pd.testing.assert_frame_equal(found, score(rows))
    with pytest.raises(CraneError, match="no answers of the unmasked model in 'vi'; judge them together"):
        OfflineJudge(questions(), CITIES, CITY_TEXTS).score(answered([UNMASKED[0], ("m", "vi", "Pháp", 1.0, 2)]))


def judged(scores):
    """Items of two judges from language -> pairs of scores."""
    mask = {"profile": "p", "model": "chat", **mask_labels(None, selected_on="")}
    return pd.DataFrame(
        {**mask, "language": language, "question": number, "judge": judge, "score": value}
        for language, pairs in scores.items()
        for number, pair in enumerate(pairs)
        for judge, value in zip(("endpoint", "offline"), pair, strict=True)
    )


def test_agreement():
    pairs = {"en": [(1, 2), (5, 4.5), (9, 5), (3, 3), (NAN, 9)], "vi": [(4, 4), (4, 6)], "zh": [(NAN, 1), (2, NAN)]}
    table = agreement(judged(pairs)).set_index("language")
    assert table["n"].to_dict() == {"en": 4, "vi": 2, "zh": 0, "all": 6}
    assert table.loc["en", "rank_correlation"] == pytest.approx(spearmanr([1, 5, 9, 3], [2, 4.5, 5, 3]).statistic)
    assert table.loc["en", "mean_absolute_difference"] == pytest.approx((1 + 0.5 + 4 + 0) / 4)
    assert table.loc["en", "within_1"] == 0.75
    assert math.isnan(table.loc["vi", "rank_correlation"])  # one judge's scores are all equal
    assert table.loc["all", "mean_absolute_difference"] == pytest.approx((5.5 + 2) / 6)
    assert table.loc["zh"].drop("n").isna().all()
    items = judged({"en": [(1, 2)]})
    with pytest.raises(CraneError, match="needs two judges, found offline"):
        agreement(items[items["judge"] == "offline"])
