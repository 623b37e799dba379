"""Accuracy by benchmark, on items that are known."""

import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from crane_study.tables.questions import accuracy_by_benchmark, has_several
from tests.study.outputs import synthetic


def test_every_benchmark_has_the_accuracy_of_its_own_questions():
    items = synthetic.make_benchmark_items()
    table = accuracy_by_benchmark(items).set_index(["method", "benchmark", "language", "masked"])
    assert not table.index.duplicated().any()
    for (method, benchmark, language, masked), row in table.iterrows():
        part = items[(items["method"] == method) & (items["benchmark"] == benchmark) & (items["language"] == language)]
        own = part["masked_language"] == language
        part = part[own if masked == "own" else (part["masked_language"] == "") if masked == "none" else ~own]
        assert row["accuracy"] == pytest.approx(part["correct"].mean())
        assert row["n"] == part["item"].nunique()
        masks = part[["masked_language", "random_seed"]].drop_duplicates()
        if len(masks) == 1:
            expected = proportion_confint(part["correct"].sum(), row["n"], method="wilson")
            assert (row["low"], row["high"]) == pytest.approx(expected)
        else:
            assert pd.isna(row["low"])
    assert {masked for *_key, masked in table.index} == {"none", "own", "others"}


def test_one_benchmark_for_each_language_is_not_split():
    items = synthetic.make_benchmark_items()
    assert has_several(items)
    assert not has_several(items.assign(benchmark=items["language"]))
    assert not has_several(items[items["benchmark"] == "XQuAD"])
