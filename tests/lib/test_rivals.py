"""Scores of other methods against loops over single neurons and against scikit-learn."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from crane_lib import rivals
from crane_lib.methods import METHODS, PublishedRules
from crane_lib.selection import normalized_contrast, select_top

LANGUAGES = ("en", "zh", "vi")
SHAPE = (2, 7)
CELLS = list(np.ndindex(SHAPE))
DOCUMENTS = {"en": 5, "zh": 6, "vi": 4}


def firing(random_seed, tokens=20):
    """Shares of few tokens, so that there are ties, zeros and ones; one neuron never fires."""
    generator = np.random.default_rng(random_seed)
    found = {k: generator.integers(0, tokens + 1, size=SHAPE) / tokens for k in LANGUAGES}
    for values in found.values():
        values[1, 2] = 0.0
    return found


def units(random_seed=0):
    """Values of single documents, rounded so that there are ties; one neuron never varies."""
    generator = np.random.default_rng(random_seed)
    mean = {k: generator.standard_normal((count, *SHAPE)).round(1) for k, count in DOCUMENTS.items()}
    for values in mean.values():
        values[:, 0, 3] = 0.25
    values = {"mean": mean, "size": {k: np.abs(item) + 0.1 for k, item in mean.items()}}
    norms = generator.uniform(0.5, 2, SHAPE)
    return SimpleNamespace(document_values=values.__getitem__, norms=norms, firing=firing(random_seed))


def of_one(values, cell):
    """Values of one neuron in all documents (N,), and their languages (N,)."""
    together = np.concatenate([item[(slice(None), *cell)] for item in values.values()])
    return together, np.concatenate([[k] * len(item) for k, item in values.items()])


@pytest.mark.parametrize("random_seed", range(4))
def test_average_precision_is_that_of_scikit_learn(random_seed):
    given = units(random_seed)
    by_size = METHODS["average_precision_size"].scores(given)
    for name, found in {"mean": METHODS["average_precision"].scores(given), "size": by_size}.items():
        for k, cell in product(LANGUAGES, CELLS):
            values, names = of_one(given.document_values(name), cell)
            assert found[k][cell] == pytest.approx(average_precision_score(names == k, values), abs=1e-12)


def test_difference_of_means_and_probe_on_standardised_sizes():
    given = units()
    difference, weights = rivals.differences_of_means(given), rivals.probe_weights(given)
    columns = [of_one(given.document_values("size"), cell) for cell in CELLS]
    names = columns[0][1]
    scaled = StandardScaler().fit_transform(np.stack([values for values, _names in columns], axis=1))
    for k in LANGUAGES:
        for place, cell in enumerate(CELLS):
            own, other = (scaled[names == k, place].mean(), scaled[names != k, place].mean())
            assert difference[k][cell] == pytest.approx(own - other, abs=1e-12)
        slow = LogisticRegression(max_iter=1000).fit(scaled, names == k).coef_[0]
        np.testing.assert_allclose(weights[k].ravel(), slow, rtol=1e-4, atol=1e-6)
        assert max(abs(weights[k][0, 3]), abs(difference[k][0, 3])) < 1e-12  # it never varies


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.8])
def test_plnd_takes_the_neurons_that_are_important_in_every_document(threshold):
    given = units()
    found = rivals.smallest_output(given)
    for k, sizes in given.document_values("size").items():
        important = [{cell for cell in CELLS if size[cell] * given.norms[cell] >= threshold} for size in sizes]
        assert {cell for cell in CELLS if found[k][cell] >= threshold} == set.intersection(*important)


@pytest.mark.parametrize("random_seed", range(4))
@pytest.mark.parametrize("budget", [0.1, 0.3, 0.9])
def test_lape_with_a_threshold_at_a_budget(random_seed, budget):
    probability = firing(random_seed)
    chosen = select_top(rivals.lape_with_threshold(units(random_seed)), budget=budget)
    everything = sorted(values[cell] for values in probability.values() for cell in CELLS)
    threshold = everything[round(0.8 * len(everything)) - 1]
    for k, values in probability.items():
        often = [cell for cell in CELLS if values[cell] > threshold]
        by_entropy = sorted(often, key=lambda cell: (entropy([item[cell] for item in probability.values()]), cell))
        rest = sorted(set(CELLS) - set(often), key=lambda cell: (-values[cell], cell))
        found = {(layer, int(i)) for layer, indices in enumerate(chosen[k]["neuron"]) for i in indices}
        assert found == set((by_entropy + rest)[: round(budget * len(CELLS))])


def slow_rewarded(probability, cell, weight):
    """Rewarded entropy of one neuron."""
    values = np.array([item[cell] for item in probability.values()])
    shares = values / values.sum() if values.sum() else np.full(len(values), 1 / len(values))
    return entropy(shares) / np.log(len(values)) - weight * values.max() / (sum(1 / k for k in (1, 2, 3)) / 3)


def slow_sets(probability, weight, quantile, share):
    """Sets of every language under a weight."""
    everything = sorted(values[cell] for values in probability.values() for cell in CELLS)
    threshold = everything[round(quantile * len(everything)) - 1]
    lowest = sorted(CELLS, key=lambda cell: slow_rewarded(probability, cell, weight))[: round(share * len(CELLS))]
    return {k: {cell for cell in lowest if values[cell] > threshold} for k, values in probability.items()}


@pytest.mark.parametrize("random_seed", range(6))
def test_njunlp_rewards_firing_as_far_as_no_neuron_is_in_every_set(random_seed):
    given, quantile, share = units(random_seed), 0.5, 0.5
    weights = np.arange(0, 0.2005, 0.0005)
    apart = [not set.intersection(*slow_sets(given.firing, w, quantile, share).values()) for w in weights]
    weight = rivals.reward_weight(given.firing, quantile=quantile, share=share)
    if all(apart):
        assert weight == 0.2
    else:  # the largest weight of a row of good ones that begins at 0
        assert not apart[0] or weight == pytest.approx(weights[apart.index(False)], abs=0.0016)
    rules = PublishedRules(lape_threshold_quantile=quantile, lape_share=share)
    expected = slow_sets(given.firing, weight, quantile, share)
    for k, chosen in rivals.njunlp_published(given, rules).items():
        assert {(layer, int(i)) for layer, indices in enumerate(chosen["neuron"]) for i in indices} == expected[k]
    slow = {cell: slow_rewarded(given.firing, cell, 0.07) for cell in CELLS}
    found = rivals.rewarded_entropy(given.firing, weight=0.07)
    assert all(found[cell] == pytest.approx(value, abs=1e-12) for cell, value in slow.items())
    scores = rivals.njunlp(given)
    assert all(array.shape == SHAPE and np.isfinite(array).all() for array in scores.values())


def test_relevance_of_the_difference_to_the_document_in_the_same_place():
    generator = np.random.default_rng(0)
    values = {
        name: {k: generator.standard_normal((count, *SHAPE)) for k, count in DOCUMENTS.items()}
        for name in ("mean", "relevance", "slope")
    }
    given = SimpleNamespace(document_values=lambda name, kind="activations": values[name])
    found = rivals.relevance_of_difference(given)
    for k in LANGUAGES:
        for cell in CELLS:
            against = []
            for other in LANGUAGES:
                if other != k:
                    terms = [
                        values["relevance"][k][d][cell] - values["slope"][k][d][cell] * values["mean"][other][d][cell]
                        for d in range(min(DOCUMENTS.values()))
                    ]
                    against.append(sum(terms) / len(terms))
            assert found[k][cell] == pytest.approx(min(against), abs=1e-12)


def test_contrasts_and_their_statistics_by_themselves():
    generator = np.random.default_rng(0)
    fields = ("neuron", "absolute", "gradient", "firing", "magnitude", "output")
    given = SimpleNamespace(**{name: {k: generator.uniform(size=SHAPE) for k in LANGUAGES} for name in fields})
    pairs = {"relevance": "contrast", "relevance_abs": "contrast_abs", "gradient": "gradient_contrast"}
    pairs |= {"firing": "activation_contrast", "magnitude": "magnitude_contrast", "output": "output_contrast"}
    for (alone, contrast), field in zip(pairs.items(), fields, strict=True):
        values = getattr(given, field)
        assert METHODS[alone].scores(given) is values
        expected = normalized_contrast(values)
        for k in LANGUAGES:
            np.testing.assert_array_equal(METHODS[contrast].scores(given)[k], expected[k])


@pytest.mark.parametrize(("name", "fields"), [("penalized", ("absolute", "output")), ("output_penalized", ("output",))])
def test_penalized_methods_subtract_twice_the_largest_other(name, fields):
    generator = np.random.default_rng(1)
    given = SimpleNamespace(
        **{field: {k: generator.uniform(size=SHAPE) for k in LANGUAGES} for field in ("absolute", "output")}
    )
    joined = {
        k: {cell: math.prod(getattr(given, field)[k][cell] for field in fields) ** (1 / len(fields)) for cell in CELLS}
        for k in LANGUAGES
    }
    found = METHODS[name].scores(given)
    for k in LANGUAGES:
        for cell in CELLS:
            own, *others = (joined[one][cell] / sum(joined[one].values()) for one in [k, *(set(LANGUAGES) - {k})])
            assert found[k][cell] == pytest.approx(own - 2 * max(others), rel=1e-12, abs=1e-15)


def test_penalized_gates_begin_with_the_best_of_the_penalty():
    generator = np.random.default_rng(5)
    shape = 2, 600
    values = {name: {k: generator.random(shape) for k in ("en", "vi")} for name in ("absolute", "output", "closed")}
    given = SimpleNamespace(**values, document_values=lambda name, kind: values[name] if kind == "gates" else None)
    found, best = (METHODS[name].scores(given) for name in ("penalized_gates", "penalized"))
    for language, scores in found.items():
        first = sorted(np.ndindex(shape), key=lambda cell: -best[language][cell])[:2]  # .2 % of 1,200
        rest = sorted(set(np.ndindex(shape)) - set(first), key=lambda cell: -values["closed"][language][cell])
        assert sorted(np.ndindex(shape), key=lambda cell: -scores[cell]) == first + rest
