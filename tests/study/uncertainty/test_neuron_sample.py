"""Estimates from random samples of neurons, against the effects of all neurons."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from crane_study.uncertainty.ground_truth import (
    OWN,
    Effects,
    additivity,
    by_layer,
    captured,
    halve,
    how_measured,
    rank_agreement,
    reliability,
    retrieval,
)
from crane_study.uncertainty.neuron_sample import (
    NeuronSample,
    draw_neurons,
    rank_correlation,
    sampling_sizes,
)
from tests.study.uncertainty.test_ground_truth import LANGUAGES, LAYERS, WIDTH, neuron_set

COUNT = 120
SEEDS = 200


def uneven(*, documents=4, width=WIDTH):
    """Effects of all neurons with a long tail, and relevance that follows them roughly."""
    generator = np.random.default_rng(5)
    rise, relevance = {}, {}
    for language in LANGUAGES:
        each = generator.lognormal(sigma=1.0, size=(LAYERS, width)) * generator.choice(
            [-0.3, 1.0], size=(LAYERS, width)
        )
        relevance[language] = np.abs(each) * generator.lognormal(sigma=0.5, size=each.shape)
        rise[language] = each + 0.2 * generator.standard_normal((documents, LAYERS, width))
    return Effects(rise, dict.fromkeys(LANGUAGES, np.full(documents, 1))), relevance


def part(effects, sample):
    """The same effects where only the sample was measured."""
    rise = {language: np.where(sample.draws > 0, values, np.nan) for language, values in effects.rise.items()}
    return Effects(rise, effects.tokens, sample)


def samples(effects, relevance, sets, *, count=COUNT, seeds=SEEDS):
    sizes = sampling_sizes(SimpleNamespace(absolute=relevance), sets)
    assert sizes.sum() == pytest.approx(1)
    return [part(effects, draw_neurons(sizes, count, random_seed=seed)) for seed in range(seeds)]


def documents_under(item):
    masks = (("none", "", ""), (item.method, item.budget, item.language))
    records = [(*labels, k, 4.0 + len(labels[0]), 4) for labels in masks for k in LANGUAGES]
    columns = ["method", "budget", "masked_language", "evaluation_language", "nll", "tokens"]
    return pd.DataFrame(records, columns=columns)


def test_sums_are_unbiased_and_their_ranges_cover_the_full_ground_truth():
    effects, relevance = uneven(width=200)
    item = neuron_set(range(5, 305), language="zh", width=200)
    documents = documents_under(item)
    layers = by_layer(effects)
    whole = additivity(effects, [item], documents)["sum_of_singles"][0]
    set_effect = captured(halve(effects, halvings=20), [item])["effect"][0]
    sums, set_sums, set_effects, covered, set_covered = [], [], [], [], []
    for sampled in samples(effects, relevance, [item]):
        table = by_layer(sampled)
        assert table[["layer", "language"]].equals(layers[["layer", "language"]])
        sums.append(table[["effect", "positive"]].to_numpy())
        covered.append((table["effect_low"] <= layers["effect"]) & (layers["effect"] <= table["effect_high"]))
        row = additivity(sampled, [item], documents).iloc[0]
        set_sums.append(row["sum_of_singles"])
        set_covered.append(row["sum_of_singles_low"] <= whole <= row["sum_of_singles_high"])
        if len(set_effects) < 100:
            set_effects.append(captured(halve(sampled, halvings=20), [item])["effect"][0])
    error = np.std(sums, axis=0) / np.sqrt(SEEDS)
    full = layers[["effect", "positive"]].to_numpy()
    assert error.max() < 0.05 * np.abs(full).max()
    assert (np.abs(np.mean(sums, axis=0) - full) < 4 * error).all()
    for found, expected in ((set_sums, whole), (set_effects, set_effect)):
        assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(len(found))
    assert 0.9 <= np.mean(covered) <= 0.98
    assert 0.9 <= np.mean(set_covered) <= 0.98


def test_shares_and_rank_correlations_are_near_those_of_all_neurons():
    effects, relevance = uneven(width=400)
    item = neuron_set(range(20), language="zh", width=400)
    scores = {"relevance": relevance}
    full = {
        "ranks": rank_agreement(effects, scores, of=OWN)[list(LANGUAGES)].to_numpy()[0],
        "needed": by_layer(effects)["needed"].to_numpy(),
        "retrieval": retrieval(effects, scores, of=OWN, share=0.2)[["average_precision", "roc_auc"]].to_numpy(),
    }
    found = {name: [] for name in full}
    covered = []
    for sampled in samples(effects, relevance, [item], count=200, seeds=40):
        table = rank_agreement(sampled, scores, of=OWN).iloc[0]
        found["ranks"].append(table[list(LANGUAGES)].astype(float))
        covered += [
            table[f"{k}_low"] <= value <= table[f"{k}_high"] for k, value in zip(LANGUAGES, full["ranks"], strict=True)
        ]
        found["needed"].append(by_layer(sampled)["needed"])
        if len(found["retrieval"]) < 5:  # scikit-learn is slow
            found["retrieval"].append(retrieval(sampled, scores, of=OWN, share=0.2)[["average_precision", "roc_auc"]])
    for name, expected in full.items():
        found[name] = np.array(found[name])
        error = found[name].std(axis=0) / np.sqrt(len(found[name]))
        assert (np.abs(found[name].mean(axis=0) - expected) < 4 * error + 0.02).all(), name
    assert np.mean(covered) > 0.8


def test_a_sample_of_all_neurons_gives_the_tables_of_all():
    effects, relevance = uneven()
    sample = NeuronSample(np.ones((LAYERS, WIDTH), dtype=np.int64), np.ones((LAYERS, WIDTH)))
    sampled = part(effects, sample)
    sets = [neuron_set(range(5, 45), language="zh"), neuron_set([], language="en")]
    halves, same = halve(effects, halvings=20), halve(sampled, halvings=20)
    scores = {"relevance": relevance}
    pairs = [
        (reliability(effects, halves), reliability(sampled, same)),
        (captured(halves, sets), captured(same, sets)),
        (by_layer(effects), by_layer(sampled)),
        (rank_agreement(effects, scores, of=OWN), rank_agreement(sampled, scores, of=OWN)),
        (retrieval(effects, scores, of=OWN, share=0.1), retrieval(sampled, scores, of=OWN, share=0.1)),
    ]
    for of_all, of_sample in pairs:
        pd.testing.assert_frame_equal(of_all, of_sample[list(of_all)])
    assert "Every one of the 100 neurons" in how_measured(effects)
    assert "100 of the 100 neurons" in how_measured(sampled)


def test_a_set_without_a_drawn_neuron_has_no_values(tmp_path):
    effects, _relevance = uneven()
    draws, weight = np.zeros((LAYERS, WIDTH), dtype=np.int64), np.full((LAYERS, WIDTH), 25.0)
    draws[:, :2] = 1
    sampled = part(effects, NeuronSample(draws, weight))
    sampled.save(tmp_path / "effects.safetensors")
    again = Effects.load(tmp_path / "effects.safetensors")
    np.testing.assert_array_equal(again.weights, [25, 25, 25, 25])
    np.testing.assert_array_equal(again.rise["vi"], sampled.rise["vi"])
    table = captured(halve(again, halvings=4), [neuron_set([7, 8]), neuron_set([0, 7], method="lape")])
    assert table["drawn"].tolist() == [0, 1]
    values = table.drop(columns=["method", "budget", "language", "neurons", "drawn"])
    assert values.iloc[0].isna().all()
    assert values.iloc[1].drop([name for name in values if "share" in name]).notna().all()


def test_draws_follow_the_sizes_and_large_neurons_are_always_taken():
    sizes = np.array([[0.3, *[0.02] * 6, 0.04], [0.2, *[0.04] * 7]])
    drawn = [draw_neurons(sizes, 8, random_seed=seed) for seed in range(2000)]
    always = np.zeros(sizes.shape, dtype=bool)
    always[:, 0] = True
    assert all((item.draws[always] == 1).all() for item in drawn)
    assert (drawn[0].weight[always] == 1).all()
    assert {tuple(item.draws.sum(axis=1)) for item in drawn} == {(4, 4)}
    mean = np.mean([item.draws for item in drawn], axis=0)
    np.testing.assert_allclose(mean * drawn[0].weight, 1, atol=0.1)
    few = draw_neurons(sizes, 2, random_seed=0)  # besides those always taken, a layer has two draws at least
    assert few.draws.sum(axis=1).tolist() == [3, 2]
    table = drawn[0].by_layer()
    assert table["always"].tolist() == [1, 1]
    assert table["neurons"].tolist() == [8, 8]


def test_weighted_ranks_are_those_of_repeated_neurons():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 8, 30).astype(float), generator.standard_normal(30)
    count = generator.integers(0, 4, 30)
    expected = spearmanr(np.repeat(a, count), np.repeat(b, count))[0]
    assert rank_correlation(a, b, count.astype(float)) == pytest.approx(expected)
    # Retrieval, too: a neuron that counts three times is like three equal neurons.
    rise = np.broadcast_to(b, (4, 1, 30))
    sample = NeuronSample(np.ones((1, 30), dtype=np.int64), np.maximum(count, 1.0)[None])
    found = retrieval(Effects({"en": rise}, {"en": np.ones(4)}, sample), {"m": {"en": a[None]}}, of=OWN, share=0.3)
    repeated = np.repeat(np.arange(30), np.maximum(count, 1))
    order = np.argsort(-b[repeated], kind="stable")
    relevant = np.isin(b[repeated], np.unique(b[repeated][order[: round(0.3 * len(repeated))]]))
    assert found["roc_auc"][0] == pytest.approx(roc_auc_score(relevant, a[repeated]), abs=0.05)
