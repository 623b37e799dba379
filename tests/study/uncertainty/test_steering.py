"""Scores of steering, compared with sums over answers one by one."""

import itertools
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.measure.steering import ASKED, GAIN, NONE, PUSH, RIVAL
from crane_study.uncertainty.steering import Answered, by_pair, compared, steering_score, strengths

LANGUAGES, PROMPTS = ["en", "zh", "vi"], 7
WAYS = [(NONE, "", -1, 0.0), (ASKED, "", -1, 0.0), *(("lape", GAIN, -1, s) for s in (2.0, 5.0, 9.0))]
WAYS += [(RIVAL, PUSH, layer, s) for layer in (1, 2) for s in (1.0, 2.0)]


def answers(random_seed=0):
    generator, rows = np.random.default_rng(random_seed), []
    for way, wanted, language, prompt in itertools.product(WAYS, LANGUAGES, LANGUAGES, range(PROMPTS)):
        if (language == wanted) == (way[0] == ASKED):
            for draw in (0, 1) if way[0] == "lape" else (-1,):
                values = generator.random() < 0.6, generator.choice([-1 / 3, 0.5, 1.0])
                rows.append((*way, draw, language, wanted, prompt, *values))
    columns = ["method", "how", "layer", "strength", "draw", "prompt_language", "wanted_language", "prompt"]
    return pd.DataFrame(rows, columns=[*columns, "forced", "relevance"])


def arranged(frame):
    """(forced, relevance) of every answer by way, language of the prompt, wanted language and prompt."""
    found = defaultdict(list)
    for row in frame.itertuples():
        way = row.method, row.how, row.layer, row.strength
        found[way, row.prompt_language, row.wanted_language, row.prompt].append((row.forced, row.relevance))
    return found


def slow(found, way, language, wanted, prompts):
    """Forcing, relevance, both and score of one way on one pair, answer by answer."""
    sums = [0.0, 0.0, 0.0]
    for prompt in prompts:
        answered = found[way, wanted if way[0] == ASKED else language, wanted, prompt]
        for forced, relevance in answered:
            for place, value in enumerate((forced, relevance, relevance if forced else 0.0)):
                sums[place] += value / len(answered) / len(prompts)
    f, r, _both = sums
    return *sums, 0.0 if f == 0 or r <= 0 else 2 * f * r / (f + r)


PAIRS = [(a, b) for b in LANGUAGES for a in LANGUAGES if a != b]


def test_the_score_is_a_harmonic_mean_and_nothing_below_chance_counts():
    found = steering_score(np.array([1.0, 0.5, 0.0, 0.0, 0.8]), np.array([1.0, 0.25, 1.0, 0.0, -0.3]))
    np.testing.assert_allclose(found, [1.0, 1 / 3, 0.0, 0.0, 0.0])


def test_every_strength_is_scored_over_all_prompts():
    frame = answers()
    table, found = strengths(Answered.read(frame)), arranged(frame)
    assert len(table) == len(WAYS)
    for row, way in zip(table.itertuples(), WAYS, strict=True):
        assert (row.method, row.how, row.layer, row.strength) == way
        expected = np.mean([slow(found, way, a, b, range(PROMPTS)) for a, b in PAIRS], axis=0)
        np.testing.assert_allclose((row.forcing, row.relevance, row.both, row.score), expected)
        assert row.score_low <= row.score <= row.score_high
        assert row.both_low <= row.both <= row.both_high


def test_strengths_are_chosen_on_the_other_half_for_each_wanted_language():
    frame, halves = answers(1), [range(0, PROMPTS, 2), range(1, PROMPTS, 2)]
    found, table = arranged(frame), compared(Answered.read(frame)).set_index(["method", "how"])
    pairs = by_pair(Answered.read(frame)).set_index(["method", "how", "prompt_language", "wanted_language"])
    means = {}
    for method, how in dict.fromkeys(way[:2] for way in WAYS):
        ways, values = [way for way in WAYS if way[:2] == (method, how)], []
        for a, b in PAIRS:
            parts = []
            for own, other in (halves, halves[::-1]):
                score = [np.mean([slow(found, way, c, b, other)[3] for c in LANGUAGES if c != b]) for way in ways]
                parts.append(slow(found, ways[int(np.argmax(score))], a, b, own))
            values.append(np.mean(parts, axis=0))
            row = pairs.loc[method, how, a, b]
            np.testing.assert_allclose(row[["forcing", "relevance", "both", "score"]].astype(float), values[-1])
        means[method] = np.mean(values, axis=0)
        row = table.loc[(method, how)]
        np.testing.assert_allclose(row[["forcing", "relevance", "both", "score"]].astype(float), means[method])
        assert row["ways"] == len(ways)
    for method, row in table.droplevel("how").iterrows():
        assert row["lead"] == pytest.approx(means[method][3] - means[RIVAL][3])
        assert row["lead_low"] <= row["lead_high"]
    assert table.loc[(RIVAL, PUSH), ["lead", "lead_low", "lead_high"]].tolist() == [0, 0, 0]


def test_a_mixture_of_weak_and_strong_steering_scores_no_better_than_either():
    """Half of the prompts answered in the right language, the others to the point: 0, in each half and together."""
    rows = [
        (*way, -1, a, b, prompt, bool(weak ^ prompt % 2), 1.0 - (weak ^ prompt % 2))
        for (way, weak) in ((("lape", GAIN, -1, 2.0), 0), (("lape", GAIN, -1, 5.0), 1), ((RIVAL, PUSH, 1, 1.0), 0))
        for a, b in itertools.permutations(LANGUAGES, 2)
        for prompt in range(4)
    ]
    table = compared(Answered.read(pd.DataFrame(rows, columns=answers().columns))).set_index("method")
    assert table.loc["lape", ["score", "both"]].tolist() == [0, 0]


def test_an_answer_that_is_missing_is_an_error():
    frame = answers()
    with pytest.raises(CraneError, match="not every way has an answer"):
        Answered.read(frame.drop(frame.index[frame["method"] == RIVAL][0]))
