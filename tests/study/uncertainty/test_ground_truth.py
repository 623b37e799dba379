"""Methods against measured effects, on effects that are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from crane_lib.errors import CraneError
from crane_lib.neurons import NeuronSet
from crane_study.uncertainty.ground_truth import (
    OWN,
    SPECIFIC,
    Effects,
    additivity,
    by_layer,
    captured,
    halve,
    rank_agreement,
    reliability,
    retrieval,
    specific,
)

LAYERS, WIDTH = 2, 50
LANGUAGES = ("en", "zh", "vi")


def made_up(*, documents=8, noise=0.0, seed=0):
    """Effects of which each language has five large ones of its own and one that all share, and what they are."""
    generator = np.random.default_rng(seed)
    truth, rise, tokens = {}, {}, {}
    for place, language in enumerate(LANGUAGES):
        each = generator.uniform(0.0, 0.01, LAYERS * WIDTH)
        each[10 * place : 10 * place + 5] += 1.0
        each[99] += 2.0
        count = generator.integers(10, 30, documents)
        jitter = noise * generator.standard_normal((documents, LAYERS * WIDTH))
        truth[language], tokens[language] = each, count
        rise[language] = ((each + jitter) * count[:, None]).reshape(documents, LAYERS, WIDTH)
    return Effects(rise, tokens), truth


def neuron_set(units, *, language="en", method="contrast", draw=-1, width=WIDTH):
    layers = [np.array([u - width * n for u in units if u // width == n], dtype=np.int64) for n in range(LAYERS)]
    return NeuronSet({"neuron": layers}, {"neuron": width}, "", method, "0.1", language, draw)


def test_effects_per_token_and_their_file(tmp_path):
    effects = Effects({"en": np.array([[[2.0, 0.0]], [[4.0, 6.0]]])}, {"en": np.array([1, 2])})
    np.testing.assert_allclose(effects.per_token()["en"], [2.0, 2.0])
    drawn = effects.per_token({"en": np.array([[2, 0], [0, 1]])})["en"]
    np.testing.assert_allclose(drawn, [[2.0, 0.0], [2.0, 3.0]])
    found = specific({"en": np.array([3.0, 1.0]), "zh": np.array([1.0, 1.5]), "vi": np.array([2.0, 0.0])})
    np.testing.assert_allclose(found["en"], [1.0, -0.5])  # own minus the largest other
    np.testing.assert_allclose(found["zh"], [-2.0, 0.5])
    effects, _truth = made_up()
    effects.save(tmp_path / "effects.safetensors")
    again = Effects.load(tmp_path / "effects.safetensors")
    assert list(again.rise) == sorted(again.rise)
    for language in LANGUAGES:
        np.testing.assert_array_equal(again.rise[language], effects.rise[language])
        np.testing.assert_array_equal(again.tokens[language], effects.tokens[language])
    with pytest.raises(CraneError, match="no such file"):
        Effects.load(tmp_path / "other.safetensors")
    whole = (tmp_path / "effects.safetensors").read_bytes()
    for content in (b"", whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / "effects.safetensors").write_bytes(content)
        with pytest.raises(
            CraneError, match=r"(was changed after it was written|cannot be read .*); remove it and run section 10"
        ):
            Effects.load(tmp_path / "effects.safetensors")


def test_halves_share_no_document():
    """Every document has an effect on a neuron of its own, so that the neurons tell which documents a half has."""
    rise = np.eye(6)[:, None]
    effects = Effects({"en": rise}, {"en": np.ones(6)})
    halves = halve(effects, halvings=50)
    first, second = halves.first["en"] > 0, halves.second["en"] > 0
    assert (first.sum(axis=1) == 3).all()
    assert (first ^ second).all()
    assert len(np.unique(first, axis=0)) > 10
    np.testing.assert_array_equal(halve(effects, halvings=50).first["en"], halves.first["en"])
    assert not np.array_equal(halve(effects, halvings=50, random_seed=1).first["en"], halves.first["en"])
    with pytest.raises(CraneError, match="3 documents in 'en'; 4 are needed"):
        halve(made_up(documents=3)[0])


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 0.999, 1.0), (0.01, 0.2, 0.7), (1e4, -0.2, 0.2)])
def test_reliability_falls_with_noise(noise, low, high):
    effects, _truth = made_up(noise=noise)
    halves = halve(effects, halvings=40)
    table = reliability(effects, halves)
    assert table["of"].tolist() == [OWN] * 3 + [SPECIFIC] * 3
    own = table[table["of"] == OWN]
    assert own["halves_agree"].between(low, high + 1e-9).all()
    np.testing.assert_allclose(own["whole_agrees"], 2 * own["halves_agree"] / (1 + own["halves_agree"]))
    assert (table["low"] <= table["halves_agree"]).all()
    pairs = zip(halves.first["vi"], halves.second["vi"], strict=True)
    expected = np.mean([spearmanr(a, b)[0] for a, b in pairs])
    assert own.set_index("language").loc["vi", "halves_agree"] == pytest.approx(expected, abs=1e-12)


def test_scores_that_are_the_effects_agree_perfectly():
    effects, truth = made_up()
    shaped = {k: v.reshape(LAYERS, WIDTH) for k, v in truth.items()}
    turned = {k: -v for k, v in shaped.items()}
    table = rank_agreement(effects, {"relevance": shaped, "turned": turned}, of=OWN)
    np.testing.assert_allclose(table.set_index("method").loc["relevance"].drop("of").astype(float), 1.0)
    np.testing.assert_allclose(table.set_index("method").loc["turned"].drop("of").astype(float), -1.0)
    contrast = {k: v.reshape(LAYERS, WIDTH) for k, v in specific(truth).items()}
    table = rank_agreement(effects, {"contrast": contrast}, of=SPECIFIC)
    np.testing.assert_allclose(table.drop(columns=["method", "of"]).to_numpy(dtype=float), 1.0)


def test_retrieval_is_the_precision_at_each_relevant_neuron():
    effects, truth = made_up()
    shaped = {k: v.reshape(LAYERS, WIDTH) for k, v in truth.items()}
    noise = np.random.default_rng(3).random((LAYERS, WIDTH))
    scores = {"relevance": shaped, "turned": {k: -v for k, v in shaped.items()}, "noise": dict.fromkeys(shaped, noise)}
    table = retrieval(effects, scores, of=OWN, share=0.1).set_index(["method", "language"])
    np.testing.assert_allclose(table.loc["relevance", "average_precision"], 1.0)
    np.testing.assert_allclose(table.loc["turned", "roc_auc"], 0.0, atol=1e-12)
    for language, effect in truth.items():
        count = max(1, round(0.1 * effect.size))
        relevant = np.isin(np.arange(effect.size), np.argsort(effect)[-count:])[np.argsort(-noise.ravel())]
        precision = (np.cumsum(relevant) / np.arange(1, effect.size + 1))[relevant].mean()
        assert table.loc[("noise", language), "average_precision"] == pytest.approx(precision)


def test_without_noise_ablation_finds_what_there_is():
    effects, truth = made_up()
    halves = halve(effects, halvings=10)
    own = [0, 1, 2, 3, 4]
    table = captured(halves, [neuron_set([*own[:4], 99]), neuron_set(own, method="lape")]).set_index("method")
    largest = np.sort(truth["en"])[-5:].sum()
    assert table.loc["contrast", "effect"] == pytest.approx(truth["en"][[0, 1, 2, 3, 99]].sum())
    assert table.loc["contrast", "share"] == pytest.approx(truth["en"][[0, 1, 2, 3, 99]].sum() / largest)
    beyond = truth["en"][own].sum() - max(truth[k][own].sum() for k in ("zh", "vi"))
    assert table.loc["lape", "specific_effect"] == pytest.approx(beyond)
    assert table.loc["lape", "specific_share"] == pytest.approx(1.0, abs=0.02)  # the shared neuron is not specific
    assert table.loc["lape", "share"] < 0.9 < table.loc["contrast", "share"]
    assert (table["share_low"] <= table["share"] + 1e-12).all()
    draws = [neuron_set([unit], method="random_like_contrast", draw=n) for n, unit in enumerate((0, 60))]
    table = captured(halves, draws)  # draws are averaged
    assert len(table) == 1
    assert table["effect"][0] == pytest.approx(truth["en"][[0, 60]].mean())


def test_choosing_on_noise_gains_nothing():
    """Effects that are only noise: what the first half chooses is worth nothing on the second."""
    generator = np.random.default_rng(0)
    rise = {k: generator.standard_normal((40, LAYERS, WIDTH)) for k in LANGUAGES}
    effects = Effects(rise, {k: np.ones(40) for k in LANGUAGES})
    halves = halve(effects, halvings=200)
    chosen = effects.per_token()["en"].argsort()[-10:]  # by all documents, the valued ones among them
    table = captured(halves, [neuron_set(chosen)])
    assert table.loc[0, ["share", "share_low", "share_high"]].isna().all()  # a share of nothing
    assert table["effect"][0] > 0


def test_sums_of_single_effects_and_the_whole():
    effects, truth = made_up()
    item = neuron_set([0, 99], language="zh")
    masks = (("none", "", "", 50.0), ("contrast", "0.1", "zh", 350.0))
    records = [(*labels, k, nll, 100) for *labels, nll in masks for k in LANGUAGES]
    columns = ["method", "budget", "masked_language", "evaluation_language", "nll", "tokens"]
    table = additivity(effects, [item], pd.DataFrame(records, columns=columns))
    assert table["together"][0] == pytest.approx(3.0)
    assert table["sum_of_singles"][0] == pytest.approx(truth["zh"][[0, 99]].sum())
    assert table["ratio"][0] == pytest.approx(3.0 / truth["zh"][[0, 99]].sum())
    table = by_layer(effects)
    assert table[["layer", "language"]].apply(tuple, axis=1).is_unique
    found = table.groupby("language")["effect"].sum()
    for language in LANGUAGES:
        assert found[language] == pytest.approx(truth[language].sum())
    assert (table["positive"] >= table["effect"]).all()
    assert (table["needed"] == 1).all()
