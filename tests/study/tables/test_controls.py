"""Tables with intervals: p against the right random masks, areas of known curves, variants and silenced parts."""

from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study import figures
from crane_study.measure.rows import MASK, langspec_rows
from crane_study.tables import controls, effects
from crane_study.uncertainty.bootstrap import resample_items
from crane_study.uncertainty.intervals import drop_intervals, langspec_intervals, mean_intervals, role_scores
from crane_study.uncertainty.permutation import p_value_table

LANGUAGES = ("en", "vi", "zh")
BUDGETS = ("0.01", "0.1")
SIZE = 40


def mask_frames(method, budget, *, own, other, draw=-1, share=0.1):
    """Right answers: the first `own` (of the masked language) or `other` questions of 40 are lost."""
    for masked in LANGUAGES if method != "none" else [""]:
        for language in LANGUAGES:
            lost = own if language == masked else other
            labels = ("p", "base", "base" if masked else "", method, budget, masked, draw, share)
            values = {"language": language, "item": range(SIZE), "correct": np.arange(SIZE) >= lost}
            yield pd.DataFrame({**dict(zip(MASK, labels, strict=True)), **values})


@pytest.fixture(scope="module")
def items():
    frames = [*mask_frames("none", "", own=0, other=0, share=0.0)]
    for budget, own in zip(BUDGETS, (10, 20), strict=True):
        frames += mask_frames("contrast", budget, own=own, other=0)
        frames += mask_frames("lape", budget, own=2, other=2)
        frames += mask_frames("kurtosis", budget, own=8, other=4)
        for draw in range(4):
            frames += mask_frames("random_global", budget, own=1 + draw, other=1 + draw, draw=draw)  # one mask for all
    for draw in range(3):
        frames += mask_frames("random_like_kurtosis", "published", own=5 * draw, other=1, draw=draw)
        frames += mask_frames("random_full", "any", own=10 * draw, other=10 * draw, draw=draw, share=0.5)
    frames += mask_frames("kurtosis", "published", own=6, other=1)
    frames += mask_frames("kurtosis_z", "> 2", own=4, other=1, share=0.03)
    frames += mask_frames("everything", "1", own=SIZE, other=SIZE, share=1.0)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def found(items):
    return resample_items(items, resamples=300)


@pytest.fixture(scope="module")
def rows(items):
    items = items.rename(columns={"language": "evaluation_language"})
    means = items.groupby([*MASK, "evaluation_language"], sort=False)["correct"].mean()
    return means.reset_index(name="value").assign(task="nlu", metric="accuracy")


def f1(own, other):
    precision, recall = own / (own + other), own / (0.75 * SIZE)  # a quarter of the questions is right by chance
    return 2 * precision * recall / (precision + recall)


def test_p_is_against_matched_masks_or_masks_of_the_same_units_and_budget(found):
    table = p_value_table(found.masks, role_scores(found), languages=found.languages)
    table = table.set_index(["method", "budget"])
    assert table.loc[("contrast", "0.1"), "control"] == "random_global"
    assert table.loc[("contrast", "0.1"), "p_value"] == 1 / (7 * 6 * 5)  # of seven masks no other three come near
    # A mask that takes as much from every language scores the same as the mask of each: its own three lose 2 each.
    scores = [f1(lost, lost) for lost in (2, 2, 2, 1, 2, 3, 4)]
    ways = [sum(way) >= 3 * f1(2, 2) - 1e-9 for way in permutations(scores, 3)]
    assert table.loc[("lape", "0.1"), "p_value"] == pytest.approx(np.mean(ways))
    assert table.loc[("kurtosis", "published"), "control"] == "random_like_kurtosis"
    ways = [sum(way) >= 3 * f1(6, 1) - 1e-9 for way in product([f1(6, 1), 0, f1(5, 1), f1(10, 1)], repeat=3)]
    assert table.loc[("kurtosis", "published"), "p_value"] == pytest.approx(np.mean(ways))
    assert np.isnan(table.loc[("kurtosis", "0.1"), "p_value"])  # neurons are no control for rows
    assert table.loc[("kurtosis", "0.1"), "control"] == ""
    assert (table["p_holm"].dropna() >= table["p_value"].dropna()).all()


def test_the_main_table_gets_intervals_and_keeps_its_columns(rows, found):
    plain = effects.main_table(langspec_rows(rows, measure="accuracy"), rows)
    table = effects.with_statistics(plain, found)
    pd.testing.assert_frame_equal(table[list(plain.columns)], plain)
    row = table[(table["method"] == "contrast") & (table["budget"] == "0.1")].iloc[0]
    assert row["mean"] == pytest.approx(f1(20, 0))
    assert row["mean_low"] < row["mean"] < row["mean_high"]
    assert table["mean_low"].notna().all()
    means = mean_intervals(found)
    assert (means["metric"] == "accuracy").all()
    contrast = means[(means["method"] == "contrast") & (means["budget"] == "0.1")].iloc[0]
    assert (contrast["mean_low"], contrast["mean_high"]) == (row["mean_low"], row["mean_high"])


def test_figures_draw_the_intervals_and_say_so(rows, found, tmp_path):
    langspec = langspec_rows(rows, measure="accuracy")
    for draw, data, intervals, options in (
        (figures.langspec_bars, langspec, langspec_intervals(found), {}),
        (figures.delta_matrices, rows, drop_intervals(found), {"metric": "accuracy"}),
    ):
        assert "paired bootstrap" in draw(data, tmp_path / "intervals", intervals=intervals, **options)
        assert "bootstrap" not in draw(data, tmp_path / "plain", **options)
        assert (tmp_path / "intervals.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


def test_area_table_has_the_methods_of_every_budget(found):
    budgets = np.array([0.01, 0.1, 1.0])
    assert controls.area(budgets, np.ones(3)) == pytest.approx(1.0)
    assert controls.area(budgets, np.array([0.0, 0.5, 1.0])) == pytest.approx(0.5)  # straight in the logarithm
    assert controls.area(budgets, np.array([[0, 0, 0.0], [0, 1, 0.0]])) == pytest.approx([0, 0.5])
    table = controls.area_table(found).set_index("method")
    assert set(table.index) == {"contrast", "lape", "kurtosis", "random_global", "everything"}
    assert table.loc["contrast", "area"] == pytest.approx((f1(10, 0) + f1(20, 0)) / 2)
    parts = table[["precision", "recall"]]
    assert parts.loc["contrast"].tolist() == pytest.approx([1.0, (10 / 30 + 20 / 30) / 2])
    assert table.loc["everything", ["precision", "recall", "area"]].tolist() == pytest.approx([0.5, 1.0, 2 / 3])
    assert (set(table["lowest_budget"]), set(table["highest_budget"])) == ({"0.01"}, {"0.1"})
    assert (table["low"] <= table["high"]).all()


def test_control_table_compares_neurons_with_global_masks_only(found):
    table = controls.control_table(found, budget="0.1").set_index("method")
    assert set(table.index) == {"contrast", "lape", "kurtosis", "random_global", "random_full", "everything"}
    # Everything off: half of the damage falls on the language, all of what it knew beyond guessing is lost.
    off = table.loc["everything"]
    assert (off["precision"], off["recall"], off["mean"]) == (0.5, 1.0, pytest.approx(2 / 3))
    assert np.isnan(off["p_value"])
    assert table.loc["contrast", "recall"] == pytest.approx(20 / 30)
    assert table.loc["contrast", "p_value"] == 1 / (7 * 6 * 5)
    assert np.isnan(table.loc["kurtosis", "p_value"])
    assert (table.loc["random_global", "lowest"], table.loc["random_global", "draws"]) == (pytest.approx(f1(1, 1)), 4)
    assert table.loc["random_full", "masked_share"] == 0.5
    # The table of variants says what each masks.
    table = controls.ablation_table(found, budget="0.1").set_index("rule")
    row = table.loc["Kurtosis, z (released: > 1)"]
    assert (row["level"], row["share_en"], row["mean"]) == ("> 2", 0.03, pytest.approx(f1(4, 1)))
    assert table.loc["Contrast (judged)", "level"] == "10 %"
    assert len(table) == 5  # one budget of each method, and everything off


def test_intervals_and_differences_leave_random_masks_where_they_belong(found):
    assert not effects.interval_table(found)["method"].str.startswith("random").any()
    drops = effects.drop_table(found)
    own = drops[(drops["method"] == "contrast") & (drops["budget"] == "0.1") & (drops["masked_language"] == "vi")]
    assert own.set_index("evaluation_language")["change"].to_dict() == {"en": 0, "vi": -0.5, "zh": 0}
    table = effects.difference_table(found, of=("contrast", "0.1")).set_index(["method", "budget"])
    assert table.loc[("lape", "0.1"), "low"] > 0
    assert ("random_global", "0.1") in table.index


def test_dose_response_is_drawn_for_methods_and_random_masks(found, tmp_path):
    curves = controls.dose_curves(found)
    assert set(curves["method"]) == {"contrast", "lape", "kurtosis", "random_global", "everything"}
    assert list(curves[curves["method"] == "contrast"]["share"]) == [0.01, 0.1]
    random = curves[curves["method"] == "random_global"].iloc[0]
    assert random["lowest"] < random["mean"] < random["highest"]
    assert "95 % bootstrap intervals" in figures.dose_response(curves, tmp_path / "dose")
    words = (tmp_path / "dose.txt").read_text()
    for at in ("0.667", "0.500", "1"):  # LangSpec-F1, precision, recall
        assert f"Everything off: horizontal line at {at}\n" in words
    with pytest.raises(CraneError, match="no dose-response rows"):
        figures.dose_response(curves.head(0), tmp_path / "none")


def test_silenced_parts_in_words():
    cases = [("none", -1), ("mlp", 0), ("attention", -1)]
    frame = pd.DataFrame(
        [(part, layer, k, "accuracy", 0.5) for part, layer in cases for k in LANGUAGES],
        columns=["part", "layer", "evaluation_language", "metric", "value"],
    )
    words = controls.silenced_table(frame)[["part", "layer"]].to_numpy().tolist()
    assert words == [["nothing", ""], ["MLP", "0"], ["attention", "all"]]
