"""Overlap of both models' sets of a language, and scores by where a set comes from and where it is masked."""

import numpy as np
import pandas as pd
import pytest

from crane_lib.neurons import NeuronSet
from crane_lib.specificity import langspec
from crane_study.measure.rows import MASK, SET, langspec_rows
from crane_study.tables.transfer import base_chat_overlaps, transfer_matrix, transfer_table, with_drop_intervals
from crane_study.uncertainty.bootstrap import resample_items

LANGUAGES = ("en", "vi", "zh")


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
    scores = pd.DataFrame(records, columns=[*SET, "masked_language", "metric", "langspec_f1"])
    scores = scores.assign(precision=2 * scores["langspec_f1"], recall=[0.1, 0.3] * 3 + [0.0])
    kept = ("chat", "base", "contrast", 0.1)
    means = pd.DataFrame([(*kept, "accuracy", 0.4, 0.6), (*kept, "nll", 0.0, 1.0)])
    means = means.set_axis([*SET, "metric", "mean_low", "mean_high"], axis=1)
    table = transfer_matrix(scores, [("contrast", "0.1"), ("kurtosis", "published")], intervals=means)
    assert set(table["method"]) == {"contrast"}
    table = table.set_index(["selected_on", "model"])
    assert table["mean"].to_dict() == {("base", "base"): 0.6, ("base", "chat"): 0.4, ("chat", "base"): 0.5}
    assert table.loc[("base", "chat"), ["mean_low", "mean_high"]].tolist() == [0.4, 0.6]
    assert table.loc[("base", "chat"), ["precision", "recall"]].tolist() == pytest.approx([0.8, 0.2])
    assert np.isnan(table.loc[("base", "base"), "mean_low"])


def answers():
    """Right answers of two models unmasked, under one set per language and under two draws of a random one."""
    generator = np.random.default_rng(4)
    sets = [("contrast", -1), ("random_like_contrast", 0), ("random_like_contrast", 1)]
    masks = [("", "none", "", "", -1, 0.0)]
    masks += [("base", method, "0.1", masked, draw, 0.1) for method, draw in sets for masked in LANGUAGES]
    frames = []
    for model in ("base", "chat"):
        for mask in masks:
            for language in LANGUAGES:
                share = 0.9 if mask[1] == "none" else 0.3 if language == mask[3] and mask[1] == "contrast" else 0.8
                labels = dict(zip(MASK, ("p", model, *mask), strict=True))
                frame = {**labels, "language": language, "item": range(30), "correct": generator.random(30) < share}
                frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def test_intervals_of_what_each_mask_costs_agree_with_a_loop():
    items = answers()
    items = items.assign(correct=items["correct"].astype(float))
    rows = items.groupby([*MASK, "language"], sort=False)["correct"].mean().reset_index(name="value")
    rows = rows.rename(columns={"language": "evaluation_language"}).assign(metric="accuracy", task="nlu")
    found = {name: resample_items(part, resamples=60) for name, part in items.groupby("model")}
    plain = transfer_table(rows, langspec_rows(rows, measure="accuracy"), metric="accuracy")
    table = with_drop_intervals(plain, list(found.values()))
    assert len(table) == 2 * 2 * 3
    pd.testing.assert_frame_equal(table[list(plain.columns)], plain, check_dtype=False)
    for row in table.itertuples():
        one = found[row.model]
        masks = one.masks[(one.masks["method"] == row.method) & (one.masks["masked_language"] == row.masked_language)]
        own, other, scores = [], [], []
        for before, after in zip(one.unmasked_draws, one.draws[:, masks.index], strict=True):
            before, after = np.maximum(before - 0.25, 0), np.maximum(after - 0.25, 0)  # corrected for chance
            lost = 1 - after.mean(axis=0) / before
            own.append(lost[LANGUAGES.index(row.masked_language)])
            other.append(lost[LANGUAGES.index(row.worst_other)])
            named = [dict(zip(LANGUAGES, values, strict=True)) for values in (before, *after)]
            scores.append(np.mean([langspec(named[0], each, target=row.masked_language).f for each in named[1:]]))
        for low, high, drawn in (
            (row.own_low, row.own_high, own),
            (row.worst_other_low, row.worst_other_high, other),
            (row.langspec_low, row.langspec_high, scores),
        ):
            assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert (table["own_low"] < table["own_drop"]).all()
    # A resample with no more right answers than guessing has no share to lose.
    items = answers()
    items.loc[items["method"] == "none", "correct"] = items["item"] < 0.4 * items["item"].max()
    base = resample_items(items[items["model"] == "base"], resamples=100)
    assert (base.unmasked_draws <= 0.25).any()
    rows = pd.DataFrame(
        {"model": ["base"], "selected_on": "base", "method": "contrast", "budget": "0.1", "masked_language": "en"}
    ).assign(own_drop=0.0, worst_other="vi", worst_other_drop=0.0, precision=0.0, recall=0.0, langspec_f1=0.0)
    table = with_drop_intervals(rows, [base])
    assert np.isfinite(table[["own_low", "own_high", "worst_other_low", "worst_other_high"]].to_numpy()).all()


def test_transfer_table(rows, langspec):
    table = transfer_table(rows, langspec, metric="accuracy")
    keys = ["method", "budget", "masked_language", "model", "selected_on"]
    row = table.set_index(keys).loc[("contrast", "0.1", "en", "chat", "base")]
    drops = row[["own_drop", "worst_other_drop"]].tolist()
    own, other = 0.52 * 0.3 * 1.4 / (0.52 - 0.25), 0.7 * 0.3 * 0.03 * 1.1 / (0.7 - 0.25)  # shares above guessing
    assert (drops, row["worst_other"]) == (pytest.approx([own, other]), "vi")
    expected = langspec.set_index([*keys, "metric"])
    assert row["langspec_f1"] == expected.loc[("contrast", "0.1", "en", "chat", "base", "accuracy"), "langspec_f1"]
