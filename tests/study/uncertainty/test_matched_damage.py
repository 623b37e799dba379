"""Costs at matched damage compared with a slow loop, and with curves whose crossings are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from crane_lib.methods import METHODS
from crane_study.figures import collateral_curves
from crane_study.measure.rows import MASK
from crane_study.tables import matched_damage as tables
from crane_study.uncertainty.bootstrap import interval, resample_documents
from crane_study.uncertainty.matched_damage import DAMAGES, at_damage, match, mean_over

LANGUAGES = ("en", "vi", "zh")
BUDGETS = ("0.01", "0.1", "0.3")
KILLED = {"0.01": 10, "0.1": 100, "0.3": 400, "1": 1000}  # of 1,000 neurons
DOCUMENTS = 9


def frames(method, budget, rises, *, draw=-1, noise=0.0, seed=0):
    """NLL of documents of ten tokens: a rise per masked and evaluated language, in nats per token, with noise."""
    generator = np.random.default_rng([seed, draw + 1, *map(ord, method + budget)])
    for masked in LANGUAGES if method != "none" else [""]:
        for language in LANGUAGES:
            own = rises[0] if language == masked else rises[1 + (LANGUAGES.index(language) % 2)]
            labels = ("p", "base", "base" if masked else "", method, budget, masked, draw, 0.1 if masked else 0.0)
            nll = 10.0 * (1.0 + own + noise * generator.normal(size=DOCUMENTS))
            values = {"evaluation_language": language, "document": range(DOCUMENTS), "nll": nll, "tokens": 10}
            yield pd.DataFrame({**dict(zip(MASK, labels, strict=True)), **values})


def documents(*, noise):
    """Two rules, a rival that hurts all alike, draws of random masks that end early, and everything off."""
    parts = [*frames("none", "", (0.0, 0.0, 0.0))]
    for budget, size in zip(BUDGETS, (0.4, 1.6, 4.0), strict=True):
        parts += frames("contrast", budget, (size, 0.1 * size, 0.05 * size), noise=noise)
        parts += frames("contrast_mean", budget, (size, 0.3 * size, 0.1 * size), noise=noise)
        parts += frames("lape", budget, (size / 2, size / 2, size / 2), noise=noise)
        for draw in (0, 1):
            parts += frames("random_global", budget, (size / 5 + draw * 0.1,) * 3, draw=draw, noise=noise)
    parts += frames("contrast_weighted", "largest x 2", (9.0, 0.0, 0.0))  # no dose
    parts += frames("everything", "1", (6.0, 5.0, 4.0))
    return pd.concat(parts, ignore_index=True)


def killed(frame):
    masks = frame.loc[frame["method"] != "none", MASK].drop_duplicates()
    counts = masks["budget"].map(KILLED).fillna(50).astype(int)
    return masks.assign(killed=counts, killed_share=counts / 1000)


@pytest.fixture(scope="module")
def exact():
    frame = documents(noise=0.0)
    found = resample_documents(frame, metric="nll", resamples=20)
    return found, tables.dose_responses(found, killed(frame))


@pytest.fixture(scope="module")
def noisy():
    frame = documents(noise=0.3)
    found = resample_documents(frame, metric="nll", resamples=300)
    return frame, found, tables.dose_responses(found, killed(frame))


def test_the_first_crossing_counts_and_nothing_is_extrapolated():
    damage = np.array([[0.0, 1.0, 0.2, 3.0], [0.0, -0.5, 0.4, 0.4]])  # falls again; never reaches 1
    values = np.arange(4.0)[None, :, None].repeat(2, axis=0)
    found, reached = at_damage(damage, values, [0.5, 1.0, 2.0])
    assert found[0, :, 0] == pytest.approx([0.5, 1.0, 2 + 1.8 / 2.8])
    assert reached.tolist() == [[True] * 3, [False] * 3]
    assert np.isnan(found[1]).all()


def test_a_curve_of_known_shape_has_its_crossings(exact):
    table = tables.damage_table(exact[1]).set_index(["method", "masked_language", "damage"])
    row = table.loc["contrast", "en", 1.0]  # half of the way from .4 to 1.6 nats
    assert (row["dose"], row["killed"]) == (pytest.approx(0.055), pytest.approx(55))
    assert row["worst_other"] == "zh"
    assert (row["worst"], row["mean_other"]) == (pytest.approx(0.1), pytest.approx(0.075))
    assert (row["worst_low"], row["worst_high"], row["reached"]) == (pytest.approx(0.1), pytest.approx(0.1), 1)
    # Half a nat lies between the .2 and .8 nats of the rival's first two doses.
    assert table.loc[("lape", "zh", 0.5), "dose"] == pytest.approx(0.01 + 0.09 * 0.3 / 0.6)
    assert table.loc[("lape", "zh", 0.5), "worst"] == pytest.approx(0.5)
    # Random masks: means over the draws, and not reached beyond the largest.
    assert table.loc[("random_global", "vi", 0.5), "worst"] == pytest.approx(0.5)
    assert table.loc["random_global", "vi", 1.0].drop("worst_other").isna().sum() == 10
    assert "contrast_weighted" not in table.index
    summary = tables.damage_summary(exact[1]).set_index(["method", "damage"])
    assert summary.loc[("contrast", 2.0), "worst"] == pytest.approx(0.2)
    assert summary.loc[("contrast", 2.0), "mean_other"] == pytest.approx(np.mean([0.15, 0.2, 0.15]))
    assert summary["languages"].to_dict()["random_global", 0.5] == 3
    assert np.isnan(summary.loc[("random_global", 1.0), "worst"])


def slow_match(rises, doses, *, own, others, damage):
    """Dose, and rises of the others, where a curve of rises (D, K) first reaches the damage; None if it does not."""
    before, dose_before = np.zeros(rises.shape[1]), 0.0
    for after, dose in zip(rises, doses, strict=True):
        if after[own] >= damage:
            share = (damage - before[own]) / (after[own] - before[own])
            at = before + share * (after - before)
            return dose_before + share * (dose - dose_before), max(at[others]), np.mean(at[others])
        before, dose_before = after, dose
    return None


def test_resampled_crossings_agree_with_a_slow_loop(noisy):
    _frame, found, responses = noisy
    for method, language in (("contrast", "zh"), ("random_global", "en")):
        (response,) = [one for one in responses if (one.method, one.language) == (method, language)]
        matched, own = match(response), found.languages.index(language)
        others = [place for place in range(3) if place != own]
        masks = found.masks[(found.masks["method"] == method) & (found.masks["masked_language"] == language)]
        places = [masks.index[masks["budget"] == budget] for budget in BUDGETS]
        for b in range(40):
            change = found.draws[b] - found.unmasked_draws[b]
            rises = np.array([np.mean([change[i] for i in place], axis=0) for place in places])
            for t, damage in enumerate(DAMAGES):
                slow = slow_match(rises, (0.01, 0.1, 0.4), own=own, others=others, damage=damage)
                fast = (matched.dose_draws[b, t], matched.worst_draws[b, t], matched.mean_draws[b, t])
                assert np.isnan(fast).all() if slow is None else fast == pytest.approx(slow)


def test_the_best_rule_is_compared_with_every_rival_on_the_same_resamples(noisy):
    responses = noisy[2]
    table = tables.damage_differences(responses).set_index(["damage", "method", "masked_language"])
    assert set(table["best_rule"]) == {"contrast"}  # contrast_mean costs the others more
    assert set(table.index.get_level_values("method")) == {"lape", "random_global"}
    matched = {(one.method, one.language): match(one) for one in responses}
    draws = matched["lape", "vi"].worst_draws[:, 1] - matched["contrast", "vi"].worst_draws[:, 1]
    row = table.loc[1.0, "lape", "vi"]
    assert (row["low"], row["high"]) == tuple(map(pytest.approx, interval(draws)))
    assert row["more_selective"] == "rule"
    assert table.loc[(2.0, "random_global", "all"), "more_selective"] == "not reached"
    mean = (
        mean_over([matched["lape", k] for k in LANGUAGES]).worst
        - mean_over([matched["contrast", k] for k in LANGUAGES]).worst
    )
    assert table.loc[(0.5, "lape", "all"), "difference"] == pytest.approx(mean[0])


def test_the_figure_has_a_panel_per_language_and_marks_everything_off(exact, tmp_path):
    found, responses = exact
    everything = tables.everything_off(found)
    assert everything.set_index("masked_language").loc["en"].tolist() == pytest.approx([6.0, 5.0])
    caption = collateral_curves(responses, tmp_path / "curves", everything=everything)
    words = (tmp_path / "curves.txt").read_text()
    assert "95 % bootstrap intervals" in caption
    assert words.count("Panel ") == 3
    assert "LAPE: 0.500: 0.500 (0.500 to 0.500)" in words
    assert "Everything off: 6: 5" in words
    assert "Thin grey" not in caption
    many = [replace(one, method=name) for one in responses if one.method == "contrast" for name in METHODS]
    assert "Thin grey" in collateral_curves(many, tmp_path / "many", everything=everything)
    words = (tmp_path / "many.txt").read_text()  # which names the grey ones, too
    assert all(f"{method.label}: 0.500: " in words for method in METHODS.values())
