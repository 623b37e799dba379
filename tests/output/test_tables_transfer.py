"""Overlap of both models' sets of a language, and scores by where a set comes from and where it is masked."""

import numpy as np
import pandas as pd
import pytest

from crane_lib.neurons import NeuronSet
from crane_lib.output.tables_transfer import base_chat_overlaps, transfer_matrix


def neurons(model, language, units, draw=-1):
    return NeuronSet({"neuron": [np.array(units)]}, {"neuron": 50}, model, "contrast", "0.1", language, draw)


def test_overlap_is_of_one_language_on_two_models():
    base = [neurons("hash1", "en", range(10)), neurons("hash1", "vi", range(10, 20)), neurons("hash1", "vi", [1], 0)]
    chat = [neurons("hash2", "en", range(5, 15)), neurons("hash2", "vi", range(10, 20))]
    table = base_chat_overlaps(base, chat).set_index("language")
    assert table["shared"].to_dict() == {"en": 5, "vi": 10}
    assert table["share_of_base"].to_dict() == {"en": 0.5, "vi": 1.0}
    assert table["expected_share"].tolist() == pytest.approx([0.2, 0.2])
    assert table.loc["vi", "p_value"] < table.loc["en", "p_value"] < 0.05


def test_matrix_of_where_sets_come_from_and_where_they_are_masked():
    records = [
        (model, on, "contrast", "0.1", language, "accuracy", value)
        for model, on, value in (("base", "base", 0.6), ("chat", "base", 0.4), ("base", "chat", 0.5))
        for language in ("en", "vi")
    ]
    records.append(("base", "base", "lape", "0.1", "en", "accuracy", 0.1))
    columns = ["model", "selected_on", "method", "budget", "masked_language", "metric", "langspec_f1"]
    table = transfer_matrix(pd.DataFrame(records, columns=columns), [("contrast", "0.1"), ("kurtosis", "published")])
    assert set(table["method"]) == {"contrast"}
    found = table.set_index(["selected_on", "model"])["mean"].to_dict()
    assert found == {("base", "base"): 0.6, ("base", "chat"): 0.4, ("chat", "base"): 0.5}
