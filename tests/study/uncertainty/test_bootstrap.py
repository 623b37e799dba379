"""Bootstrap compared with slow references on the same resampled items."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from crane_lib.errors import CraneError
from crane_lib.specificity import langspec
from crane_study.uncertainty import bootstrap as resampling
from crane_study.uncertainty import intervals
from crane_study.uncertainty.bootstrap import (
    generator_for,
    interval,
    quotient,
    resample_counts,
    resample_documents,
    resample_items,
)

LANGUAGES = ("en", "vi", "zh")
MASKS = [
    ("", "none", "", "", -1, 0.0),
    *(("base", "contrast", "0.1", language, -1, 0.1) for language in LANGUAGES),
    *(("base", "random_like_contrast", "0.1", language, draw, 0.1) for draw in (0, 1) for language in LANGUAGES),
]


def labels(mask):
    names = ("selected_on", "method", "budget", "masked_language", "random_seed", "masked_share")
    return {"profile": "p", "model": "base", **dict(zip(names, mask, strict=True))}


def documents(seed=0):
    generator = np.random.default_rng(seed)
    frames = []
    for place, language in enumerate(LANGUAGES):
        tokens = generator.integers(5, 60, size=11 + place)
        base = tokens * generator.uniform(0.5, 1.5, tokens.size)
        for mask in MASKS:
            rise = 0.8 if mask[3] == language and mask[1] == "contrast" else generator.uniform(-0.02, 0.1)
            nll = base + tokens * (mask[1] != "none") * rise * generator.uniform(0.5, 1.5, tokens.size)
            values = {"evaluation_language": language, "document": range(tokens.size), "nll": nll, "tokens": tokens}
            frames.append(pd.DataFrame({**labels(mask), **values}))
    return pd.concat(frames, ignore_index=True)


def items(seed=0):
    generator = np.random.default_rng(seed)
    frames = []
    for place, language in enumerate(LANGUAGES):
        for mask in MASKS:
            share = 0.9 if mask[1] == "none" else 0.4 if mask[3] == language else 0.8
            correct = generator.random(20 + place) < share
            values = {"language": language, "item": range(20 + place), "correct": correct}
            frames.append(pd.DataFrame({**values, **labels(mask)}))
    return pd.concat(frames, ignore_index=True)


def counts_of(language, size, resamples, random_seed):
    generator = generator_for(random_seed, LANGUAGES.index(language))
    return np.concatenate(list(resample_counts(size, resamples, generator=generator)))


def chosen(frame, mask, language, *, column):
    part = frame[(frame["method"] == mask[1]) & (frame["masked_language"] == mask[3])]
    part = part[(part["random_seed"] == mask[4]) & (part[column] == language)]
    return part.sort_values("document" if "document" in part else "item")


def test_documents_agree_with_a_loop_over_the_same_resampled_documents():
    frame = documents()
    found = resample_documents(frame, resamples=25, random_seed=3)
    assert found.draws.shape == (25, len(MASKS) - 1, 3)
    for language in LANGUAGES:
        size = frame[frame["evaluation_language"] == language]["document"].nunique()
        for b, counts in enumerate(counts_of(language, size, 25, 3)):
            index = np.repeat(np.arange(size), counts.astype(int))
            assert len(index) == size
            for mask in MASKS:
                part = chosen(frame, mask, language, column="evaluation_language").iloc[index]
                slow = np.exp(-part["nll"].sum() / part["tokens"].sum())
                place = LANGUAGES.index(language)
                drawn = [found.unmasked_draws[b, place], *found.draws[b, :, place]]
                assert drawn[MASKS.index(mask)] == pytest.approx(slow, rel=1e-12)


def test_documents_of_one_number_are_resampled_together_where_every_language_has_the_same_numbers():
    english = documents()
    english = english[english["evaluation_language"] == "en"]
    copies = [english.assign(evaluation_language=code) for code in LANGUAGES]
    found = resample_documents(pd.concat(copies, ignore_index=True), resamples=50)
    np.testing.assert_array_equal(found.draws, found.draws[:, :, [0]].repeat(3, axis=2))
    copies[1] = copies[1].assign(document=copies[1]["document"] + 1)  # other documents: nothing belongs together
    found = resample_documents(pd.concat(copies, ignore_index=True), resamples=50)
    assert (found.unmasked_draws[:, 0] != found.unmasked_draws[:, 1]).any()


def test_items_agree_with_a_loop_over_the_same_resampled_questions():
    frame = items()
    found = resample_items(frame, resamples=25, random_seed=5)
    values, draws = intervals.langspec_draws(found)
    drawn = {language: counts_of(language, 20 + i, 25, 5) for i, language in enumerate(LANGUAGES)}
    for b in range(25):
        score = {}
        for mask in MASKS:
            for language in LANGUAGES:
                index = np.repeat(np.arange(drawn[language].shape[1]), drawn[language][b].astype(int))
                score[mask, language] = chosen(frame, mask, language, column="language")["correct"].iloc[index].mean()
        above = {key: max(0.0, value - 0.25) for key, value in score.items()}  # corrected for chance
        unmasked = {language: above[MASKS[0], language] for language in LANGUAGES}
        for place, mask in enumerate(MASKS[1:]):
            slow = langspec(unmasked, {language: above[mask, language] for language in LANGUAGES}, target=mask[3]).f
            assert draws[b, place] == pytest.approx(slow, abs=1e-12)
    point = chosen(frame, MASKS[2], "vi", column="language")["correct"].mean()
    assert found.measured[1, 1] == pytest.approx(point)
    assert values.shape == (len(MASKS) - 1,)


def grouped_items(*, effect, groups=12, size=4, seed=1):
    """Parallel items in groups that share an effect, in every language the same; the masked model answers fewer."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, effect, groups).repeat(size)
    frames = []
    for language in LANGUAGES:
        own = shared + generator.normal(0, 1, groups * size)
        for mask in MASKS:
            values = {"language": language, "item": range(own.size), "correct": own > (mask[1] != "none") * 0.5 - 0.5}
            group = [f"{n % groups}" for n in range(own.size)]  # in an order of their own
            frames.append(pd.DataFrame({**values, "group": np.sort(group), **labels(mask)}))
    return pd.concat(frames, ignore_index=True)


def test_groups_agree_with_a_loop_that_copies_their_questions():
    """Slow: a resample lists whole groups, the same in every language, and takes the mean over all their questions."""
    frame = grouped_items(effect=1.0)
    ragged = frame[~frame["item"].isin([3, 10, 11])]  # groups of different sizes
    found = resample_items(ragged, resamples=25, random_seed=5)
    names = list(dict.fromkeys(ragged["group"]))
    (counts,) = resample_counts(len(names), 25, generator=generator_for(5, 0))
    for mask in MASKS:
        for place, language in enumerate(LANGUAGES):
            part = chosen(ragged, mask, language, column="language")
            answers = {name: part.loc[part["group"] == name, "correct"].tolist() for name in names}
            drawn = [found.unmasked_draws[:, place], *found.draws[:, :, place].T][MASKS.index(mask)]
            for b in range(25):
                copies = [answers[name] for name, n in zip(names, counts[b].astype(int), strict=True) for _ in range(n)]
                assert drawn[b] == pytest.approx(np.mean(np.concatenate(copies)))
    # Groups of other names in one language: nothing belongs together, and languages are drawn by themselves.
    apart = ragged.assign(group=ragged["group"].where(ragged["language"] != "vi", "other " + ragged["group"]))
    first, second = (resample_items(rows, resamples=25, random_seed=5) for rows in (ragged, apart))
    assert (first.unmasked_draws[:, 0] == second.unmasked_draws[:, 0]).all()
    assert (first.unmasked_draws[:, 1] != second.unmasked_draws[:, 1]).any()


def width(frame, of):
    low, high = interval(of(resample_items(frame)))
    return float(high - low)


def test_groups_widen_the_interval_only_where_questions_of_a_group_are_alike():
    """Questions that share an effect say less than as many by themselves, and translations go up and down together."""
    one_language = lambda found: found.unmasked_draws[:, 0]  # noqa: E731
    mean = lambda found: found.unmasked_draws.mean(axis=1)  # noqa: E731
    for effect, least, most in ((3.0, 1.5, 2.3), (0.0, 0.7, 1.35)):
        frame = grouped_items(effect=effect, groups=40)
        alone = frame.drop(columns="group")
        assert least < width(frame, one_language) / width(alone, one_language) < most
        assert (width(frame, mean) > 2 * width(alone, mean)) == (effect > 0)
    # The same groups, but drawn in each language by itself: their mean seems more certain than it is.
    frame = grouped_items(effect=3.0, groups=40)
    apart = frame.assign(group=frame["language"] + frame["group"])
    assert width(frame, mean) > 1.3 * width(apart, mean)


def test_the_interval_of_a_paired_difference_is_that_of_scipy():
    frame = items()
    mask = MASKS[2]
    before = chosen(frame, MASKS[0], "vi", column="language")["correct"].to_numpy(float)
    after = chosen(frame, mask, "vi", column="language")["correct"].to_numpy(float)
    slow = bootstrap((after - before,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))
    table = intervals.drop_intervals(resample_items(frame, resamples=20_000))
    row = table[(table["method"] == "contrast") & (table["masked_language"] == "vi")]
    row = row[row["evaluation_language"] == "vi"].iloc[0]
    assert row["change"] == pytest.approx((after - before).mean())
    # Means of 21 differences of 0 or 1 lie on a grid of 1/21: at most one step apart.
    assert row["low"] == pytest.approx(slow.confidence_interval.low, abs=1 / 21 + 1e-9)
    assert row["high"] == pytest.approx(slow.confidence_interval.high, abs=1 / 21 + 1e-9)


def test_intervals_hold_their_point_and_the_same_seed_gives_the_same(monkeypatch):
    found = resample_documents(documents(), resamples=400, random_seed=1)
    table = intervals.langspec_intervals(found)
    strong = table[table["method"] == "contrast"]
    assert ((strong["low"] <= strong["langspec_f1"]) & (strong["langspec_f1"] <= strong["high"])).all()
    assert (strong["low"] < strong["high"]).all()
    again = resample_documents(documents().sample(frac=1, random_state=4), resamples=400, random_seed=1)
    keys = ["method", "random_seed", "masked_language"]
    again = intervals.langspec_intervals(again).sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(again, table.sort_values(keys, ignore_index=True))
    other = intervals.langspec_intervals(resample_documents(documents(), resamples=400, random_seed=2))
    assert (other["low"] != table["low"]).any()
    nll = resample_documents(documents(), metric="nll", resamples=10)
    assert np.exp(-nll.measured) == pytest.approx(found.measured)
    monkeypatch.setattr(resampling, "_BLOCK_VALUES", 40)  # blocks do not change the resamples
    in_blocks = resample_documents(documents(), resamples=400, random_seed=1)
    np.testing.assert_allclose(in_blocks.draws, found.draws, rtol=1e-12)


def test_set_means_are_over_languages_and_draws_and_differences_are_paired():
    found = resample_documents(documents(), resamples=200)
    values, draws = intervals.langspec_draws(found)
    sets, means, drawn = intervals.set_means(found)
    assert list(sets["method"]) == ["contrast", "random_like_contrast"]
    assert means == pytest.approx([values[:3].mean(), values[3:].mean()])
    np.testing.assert_allclose(drawn[:, 1], draws[:, 3:].mean(axis=1))
    row = intervals.difference_intervals(found, of=("contrast", "0.1")).iloc[0]
    low, high = interval(drawn[:, 0] - drawn[:, 1])
    assert (row["method"], row["difference"]) == ("random_like_contrast", pytest.approx(means[0] - means[1]))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    with pytest.raises(CraneError, match=r"no masks of contrast at 0\.2"):
        intervals.difference_intervals(found, of=("contrast", "0.2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[frame["method"] != "none"], "expected the unmasked model once, saw it 0"),
        (lambda frame: pd.concat([frame, frame.head(1)]), "has an item of 'en' twice"),
        (lambda frame: frame.iloc[1:], "not every mask was evaluated on the same items of 'en'"),
        (lambda frame: pd.concat([frame, frame.assign(model="chat")]), r"one model, saw \['base', 'chat'\]"),
    ],
)
def test_items_that_cannot_be_paired_are_refused(change, message):
    with pytest.raises(CraneError, match=message):
        resample_items(change(items()), resamples=5)
    frame = documents()
    frame.loc[7, "nll"] = np.nan  # a missing value is no zero
    with pytest.raises(CraneError, match="not every mask was evaluated on the same items"):
        resample_documents(frame, resamples=5)


def test_a_quotient_by_what_may_be_nothing_has_no_value():
    whole = np.concatenate([[1.0], np.linspace(0.5, 1.5, 101)])
    assert quotient(3 * whole, whole) == pytest.approx((3, 3, 3))
    value, low, high = quotient(np.ones_like(whole), whole)
    assert (value, low, high) == pytest.approx((1, 1 / 1.475, 1 / 0.525), rel=1e-3)
    few_below = whole - 0.51  # 2 of 101 draws: within 2.5 %
    assert np.isfinite(quotient(np.ones_like(whole), few_below)).all()
    for uncertain in (whole - 0.6, np.concatenate([[-0.1], whole[1:]]), np.full_like(whole, np.nan)):
        assert np.isnan(quotient(np.ones_like(whole), uncertain)).all()
