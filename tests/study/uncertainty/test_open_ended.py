"""Rows, changes and LangSpec-F of judged answers."""

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_lib.specificity import langspec
from crane_study.measure.rows import COLUMNS, MASK
from crane_study.uncertainty import open_ended
from crane_study.uncertainty.open_ended import FORMS, open_langspec, score_changes, score_rows
from crane_study.uncertainty.permutation import random_p_value

LANGUAGES = ("en", "zh", "vi")
QUESTIONS = 30


def make_items(seed=0):
    """Judged answers: a set that hurts its own language by about 3 points, and two random draws that hurt little."""
    generator = np.random.default_rng(seed)
    usual = {language: generator.uniform(6, 10, QUESTIONS) for language in LANGUAGES}
    frames = []

    def add(method, budget, masked, draw, share, lost):
        for language in LANGUAGES:
            noise = generator.normal(0, 0.3, QUESTIONS) if masked else 0.0
            values = np.clip(usual[language] - lost.get(language, 0.0) + noise, 1, 10)
            selected = "base" if masked else ""
            labels = ("mini", "chat", selected, method, budget, masked, draw, share)
            frame = pd.DataFrame([labels] * QUESTIONS, columns=MASK)
            frames.append(frame.assign(language=language, question=range(QUESTIONS), score=values, judge="offline"))

    add("none", "", "", -1, 0.0, {})
    for masked in LANGUAGES:
        add("contrast", "0.1", masked, -1, 0.1, {code: 3.0 if code == masked else 0.5 for code in LANGUAGES})
        for draw in range(2):
            add("random_like_contrast", "0.1", masked, draw, 0.1, dict.fromkeys(LANGUAGES, 0.2 * draw))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def items():
    return make_items()


def mean(items, *, method, masked, language, draw=-1):
    part = items[(items["method"] == method) & (items["masked_language"] == masked) & (items["random_seed"] == draw)]
    return part[part["language"] == language]["score"].mean()


def test_rows_are_means(items):
    rows = score_rows(items, main="offline")
    assert (list(rows), len(rows)) == (list(COLUMNS), (1 + 3 + 6) * 3)
    assert (set(rows["task"]), set(rows["metric"])) == ({"open_ended"}, {"judge_score"})
    for row in rows.itertuples():
        expected = mean(
            items, method=row.method, masked=row.masked_language, language=row.evaluation_language, draw=row.random_seed
        )
        assert (row.value, row.n) == (pytest.approx(expected), QUESTIONS)
    # A second judge has a metric of its own, and missing scores do not count.
    other = items.assign(judge="endpoint")
    lost = (other["question"] == 4) & (other["method"] == "contrast")
    other.loc[lost, "score"] = np.nan
    rows = score_rows(pd.concat([other, items]), main="endpoint")
    assert set(rows["metric"]) == {"judge_score", "judge_score_offline"}
    main = rows[rows["metric"] == "judge_score"]
    assert set(main[main["method"] == "contrast"]["n"]) == {QUESTIONS - 1}
    assert set(main[main["method"] != "contrast"]["n"]) == {QUESTIONS}
    assert main["value"].notna().all()


def test_changes_and_their_intervals(items):
    table = score_changes(items, resamples=400)
    assert len(table) == 2 * 3 * 3
    contrast = table[table["method"] == "contrast"]
    for row in contrast.itertuples():
        before = mean(items, method="none", masked="", language=row.evaluation_language)
        after = mean(items, method="contrast", masked=row.masked_language, language=row.evaluation_language)
        assert (row.unmasked, row.value, row.change) == pytest.approx((before, after, after - before))
        assert row.low <= row.change <= row.high
    own = contrast["masked_language"] == contrast["evaluation_language"]
    # What differs between questions cancels: the scores vary by 1.2, their change by 0.3 (and where 1 or 10 cuts it).
    spread = 2 * 1.96 * 0.3 / np.sqrt(QUESTIONS)
    assert ((contrast["high"] - contrast["low"])[own] < 1.5 * spread).all()
    assert ((contrast["high"] - contrast["low"])[own] > 0.6 * spread).all()
    assert (contrast["high"][own] < -2.5).all()
    random = table[table["method"] == "random_like_contrast"]
    assert set(random["draws"]) == {2}
    first = random.iloc[0]
    where = {"masked": first.masked_language, "language": first.evaluation_language}
    two = [mean(items, method="random_like_contrast", **where, draw=draw) for draw in range(2)]
    assert first.value == pytest.approx(np.mean(two))


def test_a_change_is_on_the_questions_that_both_answers_have_scores_for(items):
    part = items.copy()
    hard = (part["question"] < 5) & (part["method"] == "none") & (part["language"] == "zh")
    part.loc[hard, "score"] = 1.0
    part.loc[(part["question"] < 5) & (part["method"] == "contrast"), "score"] = np.nan
    table = score_changes(part, resamples=50)
    contrast = table[table["method"] == "contrast"]
    assert set(contrast["n"]) == {QUESTIONS - 5}
    assert contrast[["change", "low", "high"]].notna().all(axis=None)
    row = contrast[contrast["masked_language"] == contrast["evaluation_language"]]
    both = part[(part["question"] >= 5) & (part["language"] == "zh")]
    expected = mean(both, method="none", masked="", language="zh")
    assert row.set_index("masked_language").loc["zh", "unmasked"] == pytest.approx(expected)
    # A language without a single score has no change; the others keep theirs.
    part.loc[part["language"] == "vi", "score"] = np.nan
    table = score_changes(part, resamples=50).set_index("evaluation_language")
    assert table.loc["vi", ["change", "low", "high"]].isna().all(axis=None)
    assert (table.loc["vi", "n"] == 0).all()
    assert table.loc["en", ["change", "low", "high"]].notna().all(axis=None)
    # No LangSpec-F is invented where scores are missing.
    part = items.copy()
    part.loc[(part["method"] == "contrast") & (part["masked_language"] == "en"), "score"] = np.nan
    table = open_langspec(part, resamples=50)
    of_contrast = table[table["method"] == "contrast"].set_index(["form", "masked_language"])
    for contrast in (of_contrast[name] for name in ("langspec", "precision", "recall")):
        assert contrast[:, "en"].isna().all()
        assert contrast[:, "mean"].isna().all()
        assert contrast[:, "vi"].notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items[items["method"] != "none"], "expected the unmasked model once"),
        (lambda items: pd.concat([items, items]), "has an item of 'en' twice"),
        (lambda items: pd.concat([items, items.assign(judge="endpoint")]), "expected the scores of one judge"),
        (lambda items: pd.concat([items, items.assign(model="base")]), "expected the items of one model"),
    ],
)
def test_answers_that_cannot_be_paired_are_refused(items, change, message):
    with pytest.raises(CraneError, match=message):
        score_changes(change(items), resamples=5)


def test_langspec_is_the_metrics_own(items):
    table = open_langspec(items, resamples=200)
    before = {code: mean(items, method="none", masked="", language=code) for code in LANGUAGES}
    for form, (beta, kind) in FORMS.items():

        def score(method, masked, draw, beta=beta, kind=kind):
            after = {k: mean(items, method=method, masked=masked, language=k, draw=draw) for k in LANGUAGES}
            return langspec(before, after, target=masked, beta=beta, form=kind)

        parts = [score("contrast", masked, -1) for masked in LANGUAGES]
        expected = [found.f for found in parts]
        drawn = [[score("random_like_contrast", masked, draw).f for draw in (0, 1)] for masked in LANGUAGES]
        mine = table[(table["form"] == form) & (table["method"] == "contrast")].set_index("masked_language")
        assert mine.loc[list(LANGUAGES), "langspec"].tolist() == pytest.approx(expected)
        for name in ("precision", "recall"):
            each = [getattr(found, name) for found in parts]
            assert mine.loc[[*LANGUAGES, "mean"], name].tolist() == pytest.approx([*each, np.mean(each)])
        assert mine.loc["mean", "langspec"] == pytest.approx(np.mean(expected))
        assert (mine["low"] <= mine["langspec"]).all()
        assert (mine["langspec"] <= mine["high"]).all()
        assert (mine["draws"] == 1).all()
        p = random_p_value(expected, drawn)
        assert mine.loc["mean", ["p_value", "p_holm"]].tolist() == pytest.approx([p, p])
        assert mine["p_value"].drop("mean").isna().all()
    random = table[(table["method"] == "random_like_contrast") & (table["masked_language"] == "mean")]
    assert set(random["draws"]) == {2}
    rows = open_ended.langspec_f1_rows(table)  # to show with those of other measures
    assert set(rows["metric"]) == {"judge_score"}
    f1 = table[table["form"] == "f1"].set_index(["method", "masked_language"])
    for row in rows.itertuples():
        assert row.langspec_f1 == f1.loc[(row.method, row.masked_language), "langspec"]
    assert sorted(set(rows["masked_language"])) == sorted(LANGUAGES)
    means = open_ended.langspec_f1_intervals(table).set_index("method")
    assert (means["metric"] == "judge_score").all()
    ends = f1.loc[("contrast", "mean"), ["low", "high"]].tolist()
    assert means.loc["contrast", ["mean_low", "mean_high"]].tolist() == ends
