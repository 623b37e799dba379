import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from scipy.stats import zscore

from crane_lib.errors import CraneError
from crane_lib.selection import (
    ROW_SITES,
    activation_entropy,
    budget_count,
    kurtosis_z,
    lape_scores,
    normalized_contrast,
    select_kurtosis,
    select_lape,
    select_rows_killing,
    select_top,
    select_top_rows,
    top,
)

LANGUAGES = ("en", "zh", "vi")
SHAPE = (3, 8)  # (L, I)
ROW_SHAPES = {"gate": (3, 8), "up": (3, 8), "down": (3, 5)}


def units(chosen):
    """The same set as (site, layer, index) triples."""
    return {(s, layer, int(i)) for s, layers in chosen.items() for layer, ids in enumerate(layers) for i in ids}


def neurons(chosen):
    assert list(chosen) == ["neuron"]
    return {(layer, index) for _site, layer, index in units(chosen)}


def cells(shape):
    return [(layer, index) for layer in range(shape[0]) for index in range(shape[1])]


def best(scores, count):
    """The `count` cells of largest score, one by one; ties to the lower cell, NaN never."""
    usable = [cell for cell in cells(scores.shape) if not math.isnan(scores[cell])]
    return set(sorted(usable, key=lambda cell: (-scores[cell], cell))[:count])


def relevance(random_seed):
    generator = np.random.default_rng(random_seed)
    return {language: generator.normal(size=SHAPE) * 10.0**power for power, language in enumerate(LANGUAGES)}


def firing(random_seed, shape=SHAPE, tokens=20):
    """Shares of few tokens, so that there are ties, zeros and ones."""
    generator = np.random.default_rng(random_seed)
    return {language: generator.integers(0, tokens + 1, size=shape) / tokens for language in LANGUAGES}


def row_kurtosis(random_seed):
    generator = np.random.default_rng(random_seed)
    values = {
        language: {site: generator.exponential(size=ROW_SHAPES[site]) for site in ROW_SITES} for language in LANGUAGES
    }
    values["en"]["up"][1, 2] = np.nan
    values["zh"]["down"][:, 0] = np.nan
    return values


# --- counting ------------------------------------------------------------------------------------------------


def test_a_budget_is_a_share_and_gives_a_number_of_units():
    cases = [(0.1, 2560, 256), (0.01, 2560, 26), (0.001, 10, 1), (0.5, 3, 2), (0.01, 32 * 11008, 3523)]
    assert [budget_count(budget, number) for budget, number, _ in cases] == [count for *_, count in cases]
    for budget in (0.0, 1.0, -0.1, 2.0, math.nan):
        with pytest.raises(CraneError, match="expected a share between 0 and 1"):
            budget_count(budget, 10)


@settings(max_examples=150, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, -1.0, 2.5, 2.5, math.nan, 7.0]), min_size=6, max_size=6),
    count=st.integers(0, 8),
)
def test_the_largest_are_taken_one_by_one(scores, count):
    array = np.array(scores).reshape(2, 3)
    mask = top(array, count)
    assert {cell for cell in cells((2, 3)) if mask[cell]} == best(array, count)


# --- contrast ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random_seed", range(5))
@pytest.mark.parametrize(("budget", "penalty"), [(0.05, 1.0), (0.1, 2.0), (0.5, 0.3)])
def test_contrast_is_own_minus_a_multiple_of_the_largest_other(random_seed, budget, penalty):
    values = relevance(random_seed)
    found = normalized_contrast(values, penalty=penalty)
    chosen = select_top(found, budget=budget)
    assert list(chosen) == list(LANGUAGES)
    scaled = {language: array / sum(abs(x) for x in array.ravel()) for language, array in values.items()}
    for language in LANGUAGES:
        score = np.empty(SHAPE)
        for cell in cells(SHAPE):
            score[cell] = scaled[language][cell] - penalty * max(scaled[o][cell] for o in LANGUAGES if o != language)
        np.testing.assert_allclose(found[language], score, rtol=1e-12, atol=1e-15)
        assert neurons(chosen[language]) == best(score, round(budget * 24))
    two = normalized_contrast({language: values[language] for language in ("en", "zh")})
    np.testing.assert_allclose(two["en"], -two["zh"], rtol=1e-12)


def test_contrast_needs_two_languages_and_something_to_normalise():
    with pytest.raises(CraneError, match=r"at least two languages, saw \['en'\]"):
        normalized_contrast({"en": np.ones(SHAPE)})
    for worthless in (np.zeros(SHAPE), np.full(SHAPE, np.nan), np.full(SHAPE, np.inf)):
        with pytest.raises(CraneError, match=r"the statistics of 'vi' sum to .*; was its corpus empty"):
            normalized_contrast(relevance(0) | {"vi": worthless})


# --- kurtosis ------------------------------------------------------------------------------------------------


def z_of(kurtosis, language):
    """z-scores over all rows of a language, with SciPy.  (site, layer, row) -> z"""
    names = [(site, *cell) for site in ROW_SITES for cell in cells(ROW_SHAPES[site])]
    values = [kurtosis[language][site][layer, row] for site, layer, row in names]
    return dict(zip(names, zscore(values, nan_policy="omit").tolist(), strict=True))


@pytest.mark.parametrize("random_seed", range(4))
@pytest.mark.parametrize(("threshold", "budget"), [(1.0, 0.02), (0.2, 0.1), (2.5, 0.6), (-100.0, 0.99)])
def test_kurtosis_as_published_and_at_a_budget(random_seed, threshold, budget):
    kurtosis = row_kurtosis(random_seed)
    published = select_kurtosis(kurtosis, threshold=threshold)
    for language in LANGUAGES:
        expected = z_of(kurtosis, language)
        found = kurtosis_z(kurtosis)[language]
        for (site, layer, row), z in expected.items():
            np.testing.assert_allclose(found[site][layer, row], z, rtol=1e-12, atol=1e-12)
        assert list(published[language]) == list(ROW_SITES)
        assert units(published[language]) == {name for name, z in expected.items() if z > threshold}
        # At a budget the same ranking is cut elsewhere; rows without kurtosis are never chosen.
        known = [name for name, z in expected.items() if not math.isnan(z)]
        ranking = sorted(known, key=lambda name: -expected[name])
        chosen = select_top_rows(kurtosis[language], share=budget)
        assert units(chosen) == set(ranking[: round(budget * len(expected))])


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom")
@pytest.mark.parametrize("value", [1.0, np.nan])
def test_kurtosis_that_does_not_vary_is_refused(value):
    flat = {site: np.full(shape, value) for site, shape in ROW_SHAPES.items()}
    with pytest.raises(CraneError, match="the statistics of 'vi' do not vary; it needs at least four documents"):
        select_kurtosis(row_kurtosis(0) | {"vi": flat}, threshold=1.0)


@pytest.mark.parametrize("random_seed", range(4))
@pytest.mark.parametrize("budget", [0.05, 0.25, 0.6, 0.99])
def test_rows_are_selected_until_enough_neurons_are_killed(random_seed, budget):
    kurtosis = row_kurtosis(random_seed)
    for language in LANGUAGES:
        scores = z_of(kurtosis, language)
        ranking = sorted((name for name, z in scores.items() if not math.isnan(z)), key=lambda name: -scores[name])
        wanted, chosen, killed = round(budget * 24), set(), set()
        for site, layer, row in ranking:
            if len(killed) == wanted:
                break
            chosen.add((site, layer, row))
            if site != "down":
                killed.add((layer, row))
        assert units(select_rows_killing(kurtosis[language], budget=budget)) == chosen
        assert len(killed) == wanted


def test_rows_without_scores_kill_no_neuron():
    values = {site: np.full(shape, np.nan) for site, shape in ROW_SHAPES.items()}
    values["up"][0, 3] = values["gate"][0, 3] = values["down"][2, 1] = 1.0
    assert units(select_rows_killing(values, budget=0.5)) == {("up", 0, 3), ("gate", 0, 3), ("down", 2, 1)}
    ungated = {site: array for site, array in row_kurtosis(0)["zh"].items() if site != "gate"}
    assert sum(map(len, select_rows_killing(ungated, budget=0.25)["up"])) == 6


# --- LAPE ----------------------------------------------------------------------------------------------------


def released_lape(probability, threshold_quantile, share):
    """LAPE with the operations of its authors' description, on tensors (L, I, languages)."""
    p = torch.stack([torch.from_numpy(array) for array in probability.values()], dim=-1)
    q = p / p.sum(-1, keepdim=True)
    q[torch.isnan(q)] = 0
    logs = torch.where(q > 0, q.log(), 0)
    entropies = -(q * logs).sum(-1)
    threshold = p.flatten().kthvalue(round(threshold_quantile * p.numel())).values
    often = p > threshold
    entropies[often.sum(-1) == 0] = torch.inf
    return entropies, often, round(share * entropies.numel())


@pytest.mark.parametrize("random_seed", range(6))
@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("threshold_quantile", [0.95, 0.8])
def test_lape_as_published(random_seed, share, threshold_quantile):
    shape = (4, 60)
    probability = firing(random_seed, shape, tokens=50)
    probability["en"][0, :5] = probability["zh"][0, :5] = probability["vi"][0, :5] = 0.0
    chosen = select_lape(probability, threshold_quantile=threshold_quantile, share=share)
    entropies, often, count = released_lape(probability, threshold_quantile, share)
    usable = [cell for cell in cells(shape) if torch.isfinite(entropies[cell])]
    kept = sorted(usable, key=lambda cell: float(entropies[cell]))[:count]
    assert len(kept) == count or threshold_quantile == 0.95
    # Neurons tied at the last place are all as good as each other.
    last = float(entropies[kept[-1]])
    sure = {cell for cell in usable if float(entropies[cell]) < last - 1e-12}
    possible = {cell for cell in usable if float(entropies[cell]) <= last + 1e-12}
    union = set().union(*(neurons(chosen[language]) for language in LANGUAGES))
    assert len(union) == min(count, len(usable))
    assert sure <= union <= possible
    for number, language in enumerate(LANGUAGES):
        assert neurons(chosen[language]) == {cell for cell in union if often[(*cell, number)]}


def test_the_published_lists_have_the_count_that_the_formula_gives(shared):
    path = shared / "reference" / "lape" / "LLaMA-2-7B.neuron.pth"
    if not path.is_file():
        pytest.skip("no ../shared/reference/lape")
    lists = torch.load(path, weights_only=True)
    assert [sum(map(len, lists[language])) for language in (0, 1, 4)] == [95, 583, 836]  # en, zh, vi
    assert lists[1][4].tolist() == [6147, 9114, 9292]
    union = {(layer, int(i)) for language in lists for layer, indices in enumerate(language) for i in indices}
    assert len(union) == round(0.01 * 32 * 11008) == budget_count(0.01, 32 * 11008)


@pytest.mark.parametrize("random_seed", range(5))
@pytest.mark.parametrize("budget", [0.05, 0.25, 0.9])
def test_lape_at_a_budget(random_seed, budget):
    probability = firing(random_seed)
    for values in probability.values():
        values[2, 1] = 0.0
    chosen = select_top(lape_scores(probability), budget=budget)
    entropies, shares = activation_entropy(probability)
    for cell in cells(SHAPE):
        p = np.array([values[cell] for values in probability.values()])
        fires = p.any()
        np.testing.assert_allclose(shares[(slice(None), *cell)], p / p.sum() if fires else p, rtol=1e-12)
        np.testing.assert_allclose(entropies[cell], scipy_entropy(p) if fires else 0, rtol=1e-12, atol=1e-12)
    for number, language in enumerate(LANGUAGES):
        own = shares[number]
        leads = [cell for cell in cells(SHAPE) if own[cell] > 0 and own[cell] >= shares[(slice(None), *cell)].max()]
        rest = [cell for cell in cells(SHAPE) if cell not in leads]
        order = sorted(leads, key=lambda cell: (entropies[cell], cell)) + sorted(rest, key=lambda c: (-own[c], c))
        assert neurons(chosen[language]) == set(order[: round(budget * 24)])
