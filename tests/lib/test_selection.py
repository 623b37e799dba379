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
    select_random_like,
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


def contrast(values, *, budget):
    return select_top(normalized_contrast(values), budget=budget)


def kurtosis_at(kurtosis, *, budget):
    return {language: select_top_rows(sites, share=budget) for language, sites in kurtosis.items()}


# --- counting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "units_", "count"),
    [(0.1, 2560, 256), (0.01, 2560, 26), (0.001, 10, 1), (0.5, 3, 2), (0.01, 32 * 11008, 3523)],
)
def test_a_budget_is_a_number_of_units(budget, units_, count):
    assert budget_count(budget, units_) == count


@pytest.mark.parametrize("budget", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_budget_is_a_share(budget):
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


def test_nothing_is_chosen_among_nan():
    assert not top(np.full((2, 3), np.nan), 4).any()


# --- contrast ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random_seed", range(5))
@pytest.mark.parametrize("budget", [0.05, 0.1, 0.5])
def test_contrast_is_own_minus_the_largest_other(random_seed, budget):
    values = relevance(random_seed)
    chosen = contrast(values, budget=budget)
    assert list(chosen) == list(LANGUAGES)
    scaled = {language: array / sum(abs(x) for x in array.ravel()) for language, array in values.items()}
    for language in LANGUAGES:
        score = np.empty(SHAPE)
        for cell in cells(SHAPE):
            score[cell] = scaled[language][cell] - max(scaled[o][cell] for o in LANGUAGES if o != language)
        np.testing.assert_allclose(normalized_contrast(values)[language], score, rtol=1e-12, atol=1e-15)
        assert neurons(chosen[language]) == best(score, round(budget * 24))


def test_contrast_does_not_depend_on_how_loud_a_language_is():
    values = relevance(0)
    louder = values | {"zh": values["zh"] * 1e6}
    first, second = contrast(values, budget=0.2), contrast(louder, budget=0.2)
    assert all(units(first[language]) == units(second[language]) for language in LANGUAGES)


def test_with_two_languages_what_one_gains_the_other_loses():
    values = {language: array for language, array in relevance(1).items() if language != "vi"}
    scores = normalized_contrast(values)
    np.testing.assert_allclose(scores["en"], -scores["zh"], rtol=1e-12)


def test_contrast_needs_two_languages():
    with pytest.raises(CraneError, match=r"at least two languages, saw \['en'\]"):
        normalized_contrast({"en": np.ones(SHAPE)})


@pytest.mark.parametrize("worthless", [np.zeros(SHAPE), np.full(SHAPE, np.nan), np.full(SHAPE, np.inf)])
def test_contrast_needs_something_to_normalise(worthless):
    with pytest.raises(CraneError, match=r"the statistics of 'vi' sum to .*; was its corpus empty"):
        normalized_contrast(relevance(0) | {"vi": worthless})


# --- kurtosis ------------------------------------------------------------------------------------------------


def z_of(kurtosis, language):
    """z-scores over all rows of a language, with SciPy.  (site, layer, row) -> z"""
    names = [(site, *cell) for site in ROW_SITES for cell in cells(ROW_SHAPES[site])]
    values = [kurtosis[language][site][layer, row] for site, layer, row in names]
    return dict(zip(names, zscore(values, nan_policy="omit").tolist(), strict=True))


@pytest.mark.parametrize("random_seed", range(4))
@pytest.mark.parametrize("threshold", [1.0, 0.2, 2.5])
def test_kurtosis_as_published(random_seed, threshold):
    kurtosis = row_kurtosis(random_seed)
    chosen = select_kurtosis(kurtosis, threshold=threshold)
    for language in LANGUAGES:
        expected = z_of(kurtosis, language)
        found = kurtosis_z(kurtosis)[language]
        for (site, layer, row), z in expected.items():
            np.testing.assert_allclose(found[site][layer, row], z, rtol=1e-12, atol=1e-12)
        assert list(chosen[language]) == list(ROW_SITES)
        assert units(chosen[language]) == {name for name, z in expected.items() if z > threshold}


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.6])
def test_kurtosis_at_a_budget_is_the_same_ranking_cut_elsewhere(budget):
    kurtosis = row_kurtosis(7)
    chosen = kurtosis_at(kurtosis, budget=budget)
    rows = sum(layers * width for layers, width in ROW_SHAPES.values())
    for language in LANGUAGES:
        z = {name: value for name, value in z_of(kurtosis, language).items() if not math.isnan(value)}
        expected = set(sorted(z, key=lambda name: -z[name])[: round(budget * rows)])
        assert units(chosen[language]) == expected


def test_rows_without_kurtosis_are_never_chosen():
    kurtosis = row_kurtosis(0)
    for chosen in (select_kurtosis(kurtosis, threshold=-100.0), kurtosis_at(kurtosis, budget=0.99)):
        assert ("up", 1, 2) not in units(chosen["en"])
        assert not {("down", layer, 0) for layer in range(3)} & units(chosen["zh"])
        assert len(units(chosen["zh"])) == 3 * (8 + 8 + 5) - 3


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom")
@pytest.mark.parametrize("value", [1.0, np.nan])
def test_kurtosis_that_does_not_vary_is_refused(value):
    flat = {site: np.full(shape, value) for site, shape in ROW_SHAPES.items()}
    with pytest.raises(CraneError, match="the statistics of 'vi' do not vary; it needs at least four documents"):
        select_kurtosis(row_kurtosis(0) | {"vi": flat}, threshold=1.0)


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


def test_the_threshold_is_the_rounded_smallest():
    # 24 neurons and 3 languages: round(.95 * 72) = 68, so p has to exceed the 68th smallest of 0, 1, ..., 71.
    values = np.random.default_rng(0).permutation(72).reshape(3, *SHAPE) / 72
    probability = dict(zip(LANGUAGES, values, strict=True))
    chosen = select_lape(probability, threshold_quantile=0.95, share=0.99)
    for number, language in enumerate(LANGUAGES):
        expected = {cell for cell in cells(SHAPE) if values[(number, *cell)] > 67 / 72}
        assert neurons(chosen[language]) == expected
    assert sum(len(neurons(chosen[language])) for language in LANGUAGES) == 4


def test_a_neuron_goes_to_every_language_in_which_it_fires_often():
    probability = {language: np.full((1, 20), 0.1) for language in LANGUAGES}
    probability["en"][0, 3] = probability["vi"][0, 3] = 0.9
    chosen = select_lape(probability, threshold_quantile=0.95, share=0.05)
    assert neurons(chosen["en"]) == neurons(chosen["vi"]) == {(0, 3)}
    assert neurons(chosen["zh"]) == set()


def test_the_count_of_low_entropy_neurons_is_that_of_the_published_lists():
    layers, width = 32, 11008
    generator = np.random.default_rng(0)
    probability = {language: generator.random((layers, width), dtype=np.float32) for language in "abcdefg"}
    chosen = select_lape(probability, threshold_quantile=0.95, share=0.01)
    union = np.zeros((layers, width), dtype=bool)
    for sites in chosen.values():
        for layer, indices in enumerate(sites["neuron"]):
            union[layer, indices] = True
    assert union.sum() == 3523


def test_the_published_lists_have_the_count_that_the_formula_gives(shared):
    path = shared / "reference" / "lape" / "LLaMA-2-7B.neuron.pth"
    if not path.is_file():
        pytest.skip("no ../shared/reference/lape")
    lists = torch.load(path, weights_only=True)
    assert [sum(map(len, lists[language])) for language in (0, 1, 4)] == [95, 583, 836]  # en, zh, vi
    assert lists[1][4].tolist() == [6147, 9114, 9292]
    union = {(layer, int(i)) for language in lists for layer, indices in enumerate(language) for i in indices}
    assert len(union) == round(0.01 * 32 * 11008) == budget_count(0.01, 32 * 11008)


def test_entropy_is_that_of_the_shares():
    probability = firing(3)
    for language in LANGUAGES:
        probability[language][0, 0] = 0.0
    found, shares = activation_entropy(probability)
    assert found[0, 0] == 0.0
    assert not shares[:, 0, 0].any()
    for cell in cells(SHAPE)[1:]:
        p = np.array([probability[language][cell] for language in LANGUAGES])
        np.testing.assert_allclose(shares[(slice(None), *cell)], p / p.sum(), rtol=1e-12)
        np.testing.assert_allclose(found[cell], scipy_entropy(p), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("random_seed", range(5))
@pytest.mark.parametrize("budget", [0.05, 0.25, 0.9])
def test_lape_at_a_budget(random_seed, budget):
    probability = firing(random_seed)
    probability["en"][2, 1] = probability["zh"][2, 1] = probability["vi"][2, 1] = 0.0
    chosen = select_top(lape_scores(probability), budget=budget)
    entropies, shares = activation_entropy(probability)
    for number, language in enumerate(LANGUAGES):
        own = shares[number]
        leads = [cell for cell in cells(SHAPE) if own[cell] > 0 and own[cell] >= shares[(slice(None), *cell)].max()]
        rest = [cell for cell in cells(SHAPE) if cell not in leads]
        order = sorted(leads, key=lambda cell: (entropies[cell], cell)) + sorted(rest, key=lambda c: (-own[c], c))
        assert neurons(chosen[language]) == set(order[: round(budget * 24)])


# --- random --------------------------------------------------------------------------------------------------


def test_random_units_are_as_many_in_every_layer_and_site():
    chosen = select_kurtosis(row_kurtosis(2), threshold=0.5)["zh"]
    widths = {site: shape[1] for site, shape in ROW_SHAPES.items()}
    draws = [select_random_like(chosen, widths, generator=np.random.default_rng(draw)) for draw in range(200)]
    for draw in draws:
        assert list(draw) == list(chosen)
        for site, layers in draw.items():
            assert [len(layer) for layer in layers] == [len(layer) for layer in chosen[site]]
            for layer in layers:
                assert layer.dtype == np.int64
                assert np.array_equal(layer, np.unique(layer))
                assert not len(layer) or (layer.min() >= 0 and layer.max() < widths[site])
    again = select_random_like(chosen, widths, generator=np.random.default_rng(0))
    assert units(again) == units(draws[0]) != units(draws[1])
    # Every unit of a layer that has some is as likely as any other.
    site, layer = next((s, n) for s, layers in chosen.items() for n, ids in enumerate(layers) if len(ids))
    counts = np.bincount(np.concatenate([draw[site][layer] for draw in draws]), minlength=widths[site])
    share = len(chosen[site][layer]) / widths[site]
    deviation = math.sqrt(200 * share * (1 - share))
    assert np.abs(counts - 200 * share).max() < 4 * deviation


def test_random_units_like_a_whole_layer_and_like_nothing():
    chosen = {"neuron": [np.arange(8), np.empty(0, dtype=np.int64)]}
    drawn = select_random_like(chosen, {"neuron": 8}, generator=np.random.default_rng(0))
    assert [layer.tolist() for layer in drawn["neuron"]] == [list(range(8)), []]
