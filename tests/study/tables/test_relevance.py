"""Shares of relevance, the tails of its distribution, and the agreement of objectives."""

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from crane_lib.relevance import stream_statistics
from crane_study.tables import relevance as tables
from tests.small import small_model


@pytest.fixture(scope="module")
def statistics():
    model = small_model(40)
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(2, 40, (12,), generator=generator).tolist() for _ in range(12)]
    return {
        language: stream_statistics(model, documents[start : start + 6], token_budget=64)
        for language, start in (("en", 0), ("vi", 6))
    }


def test_shares_add_up_and_tails_are_measured(statistics):
    shares = tables.relevance_shares(statistics)
    for language in ("en", "vi"):
        for name, sites in (("neurons", ("neuron",)), ("rows", ("gate", "up", "down"))):
            assert sum(shares[name][site, language].sum() for site in sites) == pytest.approx(100)
    found = shares["rows"]["down", "en"]
    sums = {s: statistics["en"].moments[s].mean_absolute.numpy().sum(axis=1) for s in ("gate", "up", "down")}
    assert found == pytest.approx(100 * sums["down"] / sum(values.sum() for values in sums.values()))
    table = tables.tails_table(statistics).set_index(["language", "site"])
    assert table.loc[("en", "neuron"), "units"] == 2 * 24
    values = statistics["vi"].moments["up"].mean.numpy().ravel()
    row = table.loc[("vi", "up")]
    assert row["kurtosis_over_units"] == pytest.approx(kurtosis(values, bias=False))
    assert row["top_1_percent"] == pytest.approx(np.abs(values).max() / np.abs(values).sum())
    assert np.isfinite(table.to_numpy(float)).all()
    assert set(tables.mean_values(statistics)["en"]) == {"neuron", "gate", "up", "down"}


def test_rank_correlations_of_two_objectives():
    one = {"en": np.array([[1.0, 2, 3, 4], [4.0, 3, 2, 1]])}
    other = {"en": np.array([[10.0, 20, 30, 40], [1.0, 2, 3, 4]]), "zh": np.zeros((2, 4))}
    table = tables.objective_correlations(one, other).set_index("layer")["rank_correlation"]
    assert list(table.index) == [-1, 0, 1]
    assert (table[0], table[1]) == (pytest.approx(1.0), pytest.approx(-1.0))
