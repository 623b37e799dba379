import math

import numpy as np
import pandas as pd
import pytest

from crane_lib.neurons import NeuronSet
from crane_lib.specificity import langspec
from crane_study.frames import read_frame, write_frame
from crane_study.measure.rows import (
    COLUMNS,
    MASK,
    accuracy_row,
    effects,
    langspec_of,
    langspec_rows,
    mask_labels,
    perplexity_rows,
    pick,
)


def mask(language, *, method="contrast", random_seed=-1):
    sites = {"neuron": [np.array([1, 2]), np.array([], dtype=np.int64)]}
    labels = {"method": method, "budget": "0.1", "language": language, "random_seed": random_seed}
    return NeuronSet(sites=sites, widths={"neuron": 10}, **labels)


def test_labels_and_rows():
    names = ["selected_on", "method", "budget", "masked_language", "random_seed", "masked_share"]
    labels = mask_labels(mask("zh", method="random_like_contrast", random_seed=3), selected_on="base")
    assert labels == dict(zip(names, ["base", "random_like_contrast", "0.1", "zh", 3, 0.1], strict=True))
    assert mask_labels(None, selected_on="base") == dict(zip(names, ["", "none", "", "", -1, 0.0], strict=True))
    # Perplexity is over tokens, and accuracy over questions.
    nll, tokens = np.array([2.0, 30.0]), np.array([2, 6])
    rows = {row["metric"]: row for row in perplexity_rows(nll, tokens, {"model": "base"})}
    assert rows["nll"]["value"] == 32 / 8  # the mean of documents would be 3
    assert rows["perplexity"]["value"] == pytest.approx(math.exp(4), rel=1e-12)
    assert rows["token_probability"]["value"] == pytest.approx(math.exp(-4), rel=1e-12)
    assert all(row["n"] == 8 and row["task"] == "perplexity" and row["model"] == "base" for row in rows.values())
    row = accuracy_row(np.array([True, False, True, True]), {"model": "chat"})
    assert row == {"model": "chat", "task": "nlu", "metric": "accuracy", "value": 0.75, "n": 4}


def results():
    """Rows of two models, unmasked and under three masks, with two measures."""
    generator = np.random.default_rng(0)
    rows = []
    for model in ("base", "chat"):
        masks = [None, mask("en"), mask("zh"), mask("en", method="random_like_contrast", random_seed=1)]
        for item in masks:
            labels = {"profile": "p", "model": model, **mask_labels(item, selected_on="base")}
            for language in ("en", "zh", "vi"):
                here = {**labels, "evaluation_language": language}
                tokens = generator.integers(5, 9, size=4)
                rows += perplexity_rows(tokens * generator.random(4), tokens, here)
                rows.append(accuracy_row(generator.random(10) < 0.5, here))
    return pd.DataFrame(rows)[list(COLUMNS)]


def test_rows_come_back_from_their_file(tmp_path):
    frame = results()
    write_frame(tmp_path / "rows.csv", frame)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "rows.csv"), frame, check_exact=True, check_dtype=False)


@pytest.mark.parametrize("measure", ["token_probability", "accuracy"])
def test_langspec_of_every_mask_is_that_of_its_own_model(measure):
    frame = results()
    found = langspec_rows(frame, measure=measure)
    assert len(found) == 2 * 3
    chosen = frame[frame["metric"] == measure]
    if measure == "accuracy":
        chosen = chosen.assign(value=(chosen["value"] - 0.25).clip(lower=0))

    def scores(**labels):
        part = pick(chosen, **labels)
        return dict(zip(part["evaluation_language"], part["value"], strict=True))

    for row in found.itertuples():
        same = {"masked_language": row.masked_language, "method": row.method, "random_seed": row.random_seed}
        unmasked, values = scores(model=row.model, method="none"), scores(model=row.model, **same)
        expected = langspec(unmasked, values, target=row.masked_language)
        assert (row.precision, row.recall, row.langspec_f1) == (expected.precision, expected.recall, expected.f)
        assert row.metric == measure
        assert row.task == ("nlu" if measure == "accuracy" else "perplexity")
        assert row.masked_share == 0.1


def test_accuracy_is_corrected_for_chance_except_by_the_formula_of_the_paper():
    values = {None: (0.85, 0.65, 0.45), "en": (0.55, 0.60, 0.20)}  # the last one falls below guessing
    rows = []
    for masked, accuracies in values.items():
        labels = {"profile": "p", "model": "base", **mask_labels(mask(masked) if masked else None, selected_on="base")}
        for language, value in zip(("en", "zh", "vi"), accuracies, strict=True):
            here = {**labels, "evaluation_language": language, "task": "nlu", "metric": "accuracy"}
            rows.append({**here, "value": value, "n": 100})
    frame = pd.DataFrame(rows)
    (row,) = langspec_rows(frame, measure="accuracy").itertuples()
    assert (row.precision, row.recall) == (pytest.approx(0.3 / (0.3 + 0.125)), pytest.approx(0.5))
    (row,) = langspec_rows(frame, measure="accuracy", corrected=False).itertuples()
    assert (row.precision, row.recall) == (pytest.approx(0.3 / (0.3 + 0.15)), pytest.approx(0.3 / 0.85))
    lost = effects(frame, metric="accuracy")
    assert lost["relative_drop"].tolist() == pytest.approx([0.5, 0.05 / 0.4, 1.0])
    assert lost["change"].tolist() == pytest.approx([-0.3, -0.05, -0.25])


def test_the_order_of_rows_does_not_matter_and_a_measure_may_be_absent():
    frame, order = results(), [*MASK, "metric"]
    first, second = (
        langspec_of(one).sort_values(order, ignore_index=True) for one in (frame, frame.sample(frac=1, random_state=1))
    )
    pd.testing.assert_frame_equal(first, second)
    assert len(first) == 12
    without = frame[frame["metric"] != "accuracy"]
    assert langspec_rows(without, measure="accuracy").empty
    assert list(langspec_rows(without, measure="accuracy")) == list(langspec_rows(frame, measure="accuracy"))
    assert len(langspec_of(without)) == 6
