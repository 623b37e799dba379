"""Where relevance lies, and the tails of its distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from crane_lib.relevance import stream_statistics
from crane_study.tables import relevance as landscape
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


def test_shares_add_up(statistics):
    shares = landscape.relevance_shares(statistics)
    for language in ("en", "vi"):
        for name, sites in (("neurons", ("neuron",)), ("rows", ("gate", "up", "down"))):
            assert sum(shares[name][site, language].sum() for site in sites) == pytest.approx(100)
    found = shares["rows"]["down", "en"]
    sums = {s: statistics["en"].moments[s].mean_absolute.numpy().sum(axis=1) for s in ("gate", "up", "down")}
    assert found == pytest.approx(100 * sums["down"] / sum(values.sum() for values in sums.values()))


def test_tails(statistics):
    table = landscape.tails_table(statistics).set_index(["language", "site"])
    assert table.loc[("en", "neuron"), "units"] == 2 * 24
    values = statistics["vi"].moments["up"].mean.numpy().ravel()
    row = table.loc[("vi", "up")]
    assert row["kurtosis_over_units"] == pytest.approx(kurtosis(values, bias=False))
    assert row["top_1_percent"] == pytest.approx(np.abs(values).max() / np.abs(values).sum())
    assert np.isfinite(table.to_numpy(float)).all()
    assert set(landscape.mean_values(statistics)["en"]) == {"neuron", "gate", "up", "down"}
