"""p-values against random masks: exact counts against slow enumeration, and their level where nothing is there."""

import time
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest

from crane_study.uncertainty import permutation
from crane_study.uncertainty.permutation import (
    control_of,
    holm,
    p_value_against,
    p_value_table,
    random_p_value,
    shared_p_value,
)


def slow(own, draws):
    """Share of all ways to take the own or a drawn set of each language whose sum is at least the own sets'."""
    pools = [[score, *drawn] for score, drawn in zip(own, draws, strict=True)]
    sums = [sum(way) for way in product(*pools)]
    return np.mean([value >= sum(own) - 1e-9 for value in sums])


def slow_shared(own, draws):
    """The same over all ways to give each language another mask."""
    pool = [*own, *draws]
    sums = [sum(mask[k] for k, mask in enumerate(way)) for way in permutations(pool, len(own))]
    return np.mean([value >= np.trace(own) - 1e-9 for value in sums])


@pytest.mark.parametrize(("languages", "draws"), [(1, 4), (2, 1), (2, 7), (3, 5), (4, 3), (5, 2)])
@pytest.mark.parametrize("steps", [None, 4])
def test_every_way_is_counted_once(languages, draws, steps):
    generator = np.random.default_rng(languages * 10 + draws)
    for _trial in range(5):
        own, drawn = generator.random(languages), generator.random((languages, draws))
        masks = generator.random((languages + draws, languages))
        if steps:  # scores on a grid, as accuracies are: ties
            own, drawn, masks = (np.round(values * steps) / (10 * steps) for values in (own, drawn, masks))
        assert random_p_value(own, drawn) == pytest.approx(slow(own, drawn), abs=1e-12)
        found = shared_p_value(masks[:languages], masks[languages:])
        assert found == pytest.approx(slow_shared(masks[:languages], masks[languages:]), abs=1e-12)


def test_by_hand():
    assert random_p_value([0.5], [[0.1, 0.5, 0.6, 0.2]]) == 3 / 5
    assert random_p_value([0.7, 0.9, 0.8], [[0.1] * 20] * 3) == 1 / 21**3
    assert random_p_value([0.7, 0.0, 0.1], [[0.1, 0.2], [0.1, 0.2], [0.2, 0.3]]) == 9 / 27  # .8 only with the own .7
    # Two own masks and one random one: of 3 x 2 ways only own in both places reaches .9 + .9.
    assert shared_p_value(np.array([[0.9, 0.1], [0.2, 0.9]]), np.array([[0.3, 0.3]])) == 1 / 6
    # The random mask is best in both places, but cannot be in both: with it twice the own ones would be beaten.
    own, draws = np.array([[0.6, 0.0], [0.0, 0.6]]), np.array([[1.0, 1.0]])
    assert shared_p_value(own, draws) == 3 / 6  # own twice (1.2), own and random (1.6) either way
    # Draws may differ in number and be many.
    generator = np.random.default_rng(1)
    own, draws = [0.9, 0.8, 0.9], [generator.random(60), generator.random(50), generator.random(40)]
    sums = np.add.outer(np.add.outer([0.9, *draws[0]], [0.8, *draws[1]]), [0.9, *draws[2]])
    assert random_p_value(own, draws) == pytest.approx((sums >= 2.6 - 1e-9).mean(), abs=1e-12)


@pytest.mark.parametrize("kind", ["apart", "shared"])
@pytest.mark.parametrize("draws", [3, 8])
def test_where_a_set_is_random_too_small_p_are_no_more_frequent_than_they_say(kind, draws):
    generator = np.random.default_rng(draws)
    p = []
    for _trial in range(1500):  # of a wide distribution, whose tail so few draws do not show
        scores = np.exp(2 * generator.normal(size=(3 + draws, 3)))
        if kind == "apart":
            p.append(random_p_value(scores[0], scores[1 : draws + 1].T))
        else:
            scores *= np.exp(2 * generator.normal(size=(3 + draws, 1)))  # scores of one mask go together
            p.append(shared_p_value(scores[:3], scores[3:]))
    for level in (0.02, 0.05, 0.2):
        assert np.mean(np.array(p) <= level) < level + 3 * np.sqrt(level * (1 - level) / len(p))
    assert np.mean(np.array(p) <= 0.2) > 0.15


@pytest.mark.parametrize(
    ("own", "draws"),
    [([0.7, 0.2], [[], []]), ([0.7, 0.2], [[0.1], []]), ([0.7, np.nan], [[0.1], [0.1]]), ([0.7], [[0.1, np.nan]])],
)
def test_without_draws_or_scores_there_is_none(own, draws):
    assert np.isnan(random_p_value(own, draws))
    assert np.isnan(shared_p_value(np.eye(2), np.empty((0, 2))))
    assert np.isnan(shared_p_value(np.eye(2), np.array([[0.1, np.nan]])))


def masks_and_scores():
    """Own sets, random sets like them (in another order of languages) and global masks that serve both languages."""
    sets = [("contrast", "0.1", -1), ("kurtosis", "0.1", -1), ("lape", "0.1", -1), ("lape", "published", -1)]
    drawn = [(method, "0.1", draw) for draw in range(3) for method in ("random_like_contrast", "random_global")]
    records = [(*key, code) for key in sets for code in ("vi", "en")]
    records += [(*key, code) for key in drawn for code in ("en", "vi")]
    masks = pd.DataFrame(records, columns=["method", "budget", "random_seed", "masked_language"])
    scores = np.random.default_rng(2).random((len(masks), 2))
    shared = masks["method"] == "random_global"
    scores[shared & (masks["masked_language"] == "vi")] = scores[shared & (masks["masked_language"] == "en")]
    return masks.assign(model="base", selected_on="base"), scores


def test_scores_are_those_of_the_language_that_is_masked():
    masks, scores = masks_and_scores()
    own = masks[(masks["method"] == "contrast")]
    like, glob = (masks[masks["method"] == kind] for kind in ("random_like_contrast", "random_global"))
    drawn = [scores[like.index[like["masked_language"] == code], column] for column, code in enumerate(("en", "vi"))]
    found = p_value_against(own, like, scores, languages=("en", "vi"))
    assert found == pytest.approx(slow([scores[1, 0], scores[0, 1]], drawn))
    once = scores[glob.index[glob["masked_language"] == "en"]]
    found = p_value_against(own, glob, scores, languages=("en", "vi"))
    assert found == pytest.approx(slow_shared(scores[[1, 0]], once))
    assert np.isnan(p_value_against(own, masks.head(0), scores, languages=("en", "vi")))
    # The table finds the controls of every method.
    table = p_value_table(masks, scores, languages=("en", "vi"))
    controls = table.set_index(["method", "budget"])["control"].to_dict()
    matched = {("contrast", "0.1"): "random_like_contrast", ("lape", "0.1"): "random_global"}
    assert controls == matched | dict.fromkeys((("kurtosis", "0.1"), ("lape", "published")), "")
    assert table["p_value"].notna().tolist() == [True, False, True, False]
    np.testing.assert_allclose(table["p_holm"], holm(table["p_value"]))
    assert control_of("lape", "0.1", {("random_global", "0.1"), ("random_global", "0.2")}) == "random_global"


def test_holm_by_hand_and_without_tests():
    # Sorted .01 .02 .03 .04: times 4, 3, 2, 1, then never falling.
    assert holm([0.04, 0.01, np.nan, 0.03, 0.02]) == pytest.approx([0.06, 0.04, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).shape == (0,)


def test_where_ways_are_too_many_a_seeded_sample_estimates_p_within_its_error(monkeypatch):
    generator = np.random.default_rng(3)
    own, drawn = generator.random(4) * 0.6 + 0.3, generator.random((4, 6))
    masks = generator.random((10, 4)) + 0.15 * np.eye(10, 4)
    exact = random_p_value(own, drawn), shared_p_value(masks[:4], masks[4:])
    assert 0.01 < min(exact) < max(exact) < 0.9
    monkeypatch.setattr(permutation, "_MOST_SUMS", 1)
    found = random_p_value(own, drawn), shared_p_value(masks[:4], masks[4:])
    assert found == (random_p_value(own, drawn), shared_p_value(masks[:4], masks[4:]))
    for p, estimate in zip(exact, found, strict=True):
        assert estimate != p
        assert abs(estimate - p) < 4 * np.sqrt(p * (1 - p) / permutation.SAMPLED)


@pytest.mark.parametrize("languages", [7, 9, 32])
def test_many_languages_take_seconds(languages):
    generator = np.random.default_rng(languages)
    masks = generator.random((languages + 20, languages))
    began = time.process_time()
    found = shared_p_value(masks[:languages], masks[languages:])
    assert 0.01 < found < 0.99
    assert 0.01 < random_p_value(np.full(languages, 0.55), generator.random((languages, 20))) < 0.99
    best = np.concatenate([masks[:languages] + 10 * np.eye(languages), masks[languages:]])
    assert 0 < shared_p_value(best[:languages], best[languages:]) < 1e-4
    assert time.process_time() - began < 20
