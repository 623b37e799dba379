"""Shapes of tables against numbers worked out by hand, and the three files of a table."""

import numpy as np
import pytest

from crane_study.tables import effects as tables
from tests.study.outputs import synthetic


def test_main_table(langspec, rows):
    table = tables.main_table(langspec, rows)
    one = table[(table["model"] == "base") & (table["metric"] == "accuracy")].set_index(["method", "budget"])
    f1 = langspec[(langspec["model"] == "base") & (langspec["metric"] == "accuracy")]
    contrast = f1[f1["method"] == "contrast"].set_index("masked_language")["langspec_f1"]
    row = one.loc[("contrast", "0.1")]
    assert row["mean"] == pytest.approx(contrast.mean())
    assert row["zh"] == pytest.approx(contrast["zh"])
    assert (row["lowest"], row["highest"], row["draws"]) == (row["mean"], row["mean"], 1)
    assert one.loc[("kurtosis", "published"), "masked_share"] == pytest.approx(0.08)
    draws = f1[f1["method"] == "random_like_contrast"].groupby("random_seed")["langspec_f1"].mean()
    row = one.loc[("random_like_contrast", "0.1")]
    assert (row["lowest"], row["highest"], row["draws"]) == (draws.min(), draws.max(), synthetic.DRAWS)
    assert row["mean"] == pytest.approx(draws.mean())
    order = table["method"].drop_duplicates().tolist()
    assert order[:3] == ["contrast", "kurtosis", "lape"]
    assert table["metric"].drop_duplicates().tolist() == ["token_probability", "accuracy"]
    assert tables.main_table(langspec)["masked_share"].isna().all()


def test_matrix_table(rows):
    table = tables.matrix_table(rows, "contrast", "nll", budget="0.1").set_index("masked_language")
    assert list(table.columns) == ["en", "zh", "vi"]
    assert list(table.index) == ["", "en", "zh", "vi"]
    assert table.loc["", "zh"] == 1.03
    assert table.loc["en", "en"] == pytest.approx(0.69 + 1.4)
    change = tables.matrix_table(rows, "contrast", "nll", budget=0.1, column="change").set_index("masked_language")
    assert list(change.index) == ["en", "zh", "vi"]
    assert change.loc["zh", "zh"] == pytest.approx(1.4 * 1.05)
    table = tables.matrix_table(rows, "random_like_contrast", "nll", budget="0.1").set_index("masked_language")
    part = rows[(rows["model"] == "base") & (rows["method"] == "random_like_contrast") & (rows["metric"] == "nll")]
    cell = part[(part["masked_language"] == "en") & (part["evaluation_language"] == "vi")]
    assert len(cell) == synthetic.DRAWS
    assert table.loc["en", "vi"] == pytest.approx(cell["value"].mean())


def test_perplexity_table(rows):
    table = tables.perplexity_table(rows)
    unmasked = table[(table["method"] == "none") & (table["model"] == "base")].set_index("evaluation_language")
    assert unmasked.loc["vi", "nll"] == 0.53
    assert unmasked.loc["vi", "perplexity"] == pytest.approx(np.exp(0.53))
    assert (unmasked["delta_nll"] == 0).all()
    keys = ["model", "selected_on", "method", "budget", "masked_language", "evaluation_language"]
    masked = table.set_index(keys)
    row = masked.loc[("base", "base", "contrast", "0.1", "en", "en")]
    assert row["delta_nll"] == pytest.approx(1.4)
    random = masked.loc[("base", "base", "random_like_contrast", "0.1", "en", "vi")]
    assert random["draws"] == synthetic.DRAWS
    assert random["lowest"] < random["delta_nll"] < random["highest"]
    assert not masked.index.duplicated().any()


def test_specificity_table(rows):
    table = tables.specificity_table(rows).set_index(["model", "selected_on", "method", "budget", "masked_language"])
    row = table.loc[("base", "base", "contrast", "0.1", "en")]
    assert row["worst_other"] == "vi"
    rises = row[["own_rise", "worst_other_rise", "ratio"]].tolist()
    assert rises == pytest.approx([1.4, 0.03 * 1.1, 1.4 / 0.033])
    alone = tables.specificity_table(synthetic.make_rows({("contrast", "0.1"): (1.0, -0.1, 0.1)}, models=("base",)))
    assert np.isinf(alone["ratio"]).all()


def test_every_method_beside_random_sets_of_its_own_size(rows):
    """Methods without such sets are left out; the numbers are means over languages, of one draw or of all."""
    found = synthetic.make_resampled(rows)["base", "token_probability"]
    table = tables.matched_random_table(found).set_index(["method", "budget"])
    assert set(table.index) == {("contrast", "0.1"), ("kurtosis", "published")}
    f1 = synthetic.make_langspec(rows[rows["model"] == "base"]).query("metric == 'token_probability'")
    own = f1[f1["method"] == "contrast"]["langspec_f1"].mean()
    draws = f1[f1["method"] == "random_like_contrast"].groupby("random_seed")["langspec_f1"].mean()
    row = table.loc[("contrast", "0.1")]
    expected = [own, draws.mean(), draws.min(), draws.max(), synthetic.DRAWS]
    assert row[["own", "random_mean", "random_lowest", "random_highest", "draws"]].tolist() == pytest.approx(expected)
    assert row["p_value"] == pytest.approx(1 / (synthetic.DRAWS + 1) ** 3)
