"""Our results beside the paper's."""

import pandas as pd
import pytest

from crane_study.paper import comparison as beside
from crane_study.paper.published import published_rows, published_scores
from crane_study.paper.tolerances import load_tolerances

TOLERANCES = load_tolerances()


@pytest.fixture
def exact():
    """Rows of ours that are the published ones."""
    return published_rows().assign(n=1000)


def directions(rows, model="base", **options):
    noise = beside.noise_of_accuracy(TOLERANCES)
    return beside.directions_beside(rows, model=model, metric="accuracy", tolerances=TOLERANCES, noise=noise, **options)


@pytest.mark.parametrize(("model", "count"), [("base", 30), ("chat", 21)])
def test_the_published_values_lie_within_the_tolerance_of_themselves(exact, model, count):
    table = beside.values_beside(exact, model=model, metric="accuracy", tolerances=TOLERANCES)
    assert len(table) == count
    assert set(table["within"]) == {"yes"}
    assert (table["difference"] == 0).all()
    assert (table["tolerance"] > 0).all()


def test_a_value_beyond_the_tolerance_is_not_within(exact):
    chosen = (exact["model"] == "base") & (exact["method"] == "kurtosis") & (exact["masked_language"] == "en")
    moved = exact["value"].where(~(chosen & (exact["evaluation_language"] == "en")), exact["value"] - 0.02)
    table = beside.values_beside(exact.assign(value=moved), model="base", metric="accuracy", tolerances=TOLERANCES)
    outside = table[table["within"] == "no"]
    assert outside[["method", "masked_language", "evaluation_language"]].to_numpy().tolist() == [
        ["kurtosis", "en", "en"]
    ]
    assert outside["difference"].item() == pytest.approx(-0.02)


def test_missing_rows_are_not_run_and_the_others_stay(exact):
    lacking = exact[exact["method"] != "lape"]
    table = beside.values_beside(lacking, model="base", metric="accuracy", tolerances=TOLERANCES)
    assert set(table.loc[table["method"] == "lape", "within"]) == {"NOT RUN"}
    assert set(table.loc[table["method"] != "lape", "within"]) == {"yes"}
    nothing = beside.values_beside(exact.iloc[:0], model="base", metric="accuracy", tolerances=TOLERANCES)
    assert set(nothing["within"]) == {"NOT RUN"}
    assert set(directions(exact.iloc[:0])["same_direction"]) == {"NOT RUN"}


def test_random_draws_are_averaged_and_widen_the_tolerance(exact):
    drawn = exact[exact["method"] == "random_like_kurtosis"]
    two = [drawn.assign(value=drawn["value"] + step, random_seed=draw) for draw, step in ((0, -0.05), (1, 0.05))]
    rows = pd.concat([exact[exact["method"] != "random_like_kurtosis"], *two])
    table = beside.values_beside(rows, model="base", metric="accuracy", tolerances=TOLERANCES)
    random = table[table["method"] == "random_like_kurtosis"]
    assert random["difference"].abs().max() < 1e-12
    assert (random["tolerance"] > 1.96 * 0.07).all()


def test_directions_of_the_published_accuracies(exact):
    """What the paper's own numbers say, by words: the English set costs Vietnamese most."""
    table = directions(exact).set_index(["method", "masked_language"])
    assert table.loc[("kurtosis", "en"), "own_published"] == "falls"
    assert table.loc[("kurtosis", "en"), "most_published"] == "Vietnamese"
    assert table.loc[("kurtosis", "zh"), "own_published"] == "no clear change"
    assert table.loc[("kurtosis", "vi"), "most_published"] == "Vietnamese"
    assert set(table.loc["lape", "own_published"]) == {"no clear change"}


def test_agreement_in_directions(exact):
    ours = exact.assign(n=10**9)  # so many questions that every change is clear
    better = (ours["method"] == "kurtosis") & (ours["masked_language"] == "vi")
    raised = ours.assign(value=ours["value"].where(~better, 0.9))
    table = directions(raised).set_index(["method", "masked_language"])
    assert table.loc[("kurtosis", "vi"), "own_ours"] == "rises"
    assert table.loc[("kurtosis", "vi"), "same_direction"] == "no"
    assert table.loc[("kurtosis", "en"), "same_direction"] == "yes"
    assert table.loc[("kurtosis", "zh"), "own_ours"] == "falls"
    numbers = table.drop(columns=["budget"]).map(lambda cell: isinstance(cell, float)).to_numpy()
    assert not numbers.any()


def test_open_ended_scores_beside_the_published():
    scores = published_scores().assign(metric="judge_score", n=70)
    table = beside.values_beside(scores, model="chat", metric="judge_score", tolerances=TOLERANCES, open_ended=True)
    assert len(table) == 30
    assert set(table["within"]) == {"yes"}
    assert table["tolerance"].unique().tolist() == pytest.approx([1.96 * 2.5 * (2 / 70) ** 0.5])
    noise = beside.noise_of_scores(TOLERANCES)
    words = beside.directions_beside(
        scores, model="chat", metric="judge_score", tolerances=TOLERANCES, noise=noise, open_ended=True
    )
    assert set(words["same_direction"]) == {"yes"}
    assert set(words.loc[words["method"] == "kurtosis", "most_published"]) == {"Vietnamese"}
