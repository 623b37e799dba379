"""Our LangSpec-F beside the paper's."""

import numpy as np
import pandas as pd
import pytest

from crane_study.frames import read_frame
from crane_study.paper import comparison as beside_langspec
from crane_study.paper.published import PUBLISHED, published_rows, published_scores
from crane_study.paper.tolerances import load_tolerances
from crane_study.uncertainty.open_ended import open_langspec

TOLERANCES = load_tolerances()
QUESTIONS = 5


@pytest.fixture
def exact():
    """Rows of ours that are the published ones."""
    return published_rows().assign(n=1000)


@pytest.fixture(scope="module")
def judged():
    """Judged answers whose means are the published scores; they spread by up to 2 points around them."""
    around = np.linspace(-2, 2, QUESTIONS)
    frames = [
        pd.DataFrame({"question": range(QUESTIONS), "score": row.value + around}).assign(
            profile="p",
            model="chat",
            selected_on=row.selected_on,
            method=row.method,
            budget=row.budget,
            masked_language=row.masked_language,
            random_seed=-1,
            masked_share=0.1,
            language=row.evaluation_language,
            judge="endpoint",
        )
        for row in published_scores().itertuples()
    ]
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def found(judged):
    return open_langspec(judged, resamples=2)


def test_langspec_beside_the_published():
    table = beside_langspec.langspec_beside(published_rows(), model="base", tolerances=TOLERANCES)
    values = table.set_index(["method", "masked_language"])["published"]
    assert values["kurtosis", "vi"] == pytest.approx(0.4907, abs=6e-5)
    assert values["lape", "zh"] == pytest.approx(0.0337, abs=6e-5)
    assert set(table["within"]) == {"yes"}


def test_missing_masks_are_not_run_and_the_others_stay(exact):
    lacking = exact[exact["method"] != "lape"]
    ranks = beside_langspec.ranks_beside(lacking, model="base").set_index("method")["rank_ours"]
    assert set(ranks) == {"1", "2", "NOT RUN"}
    assert ranks["lape"] == "NOT RUN"
    scores = beside_langspec.langspec_beside(lacking, model="base", tolerances=TOLERANCES)
    assert scores.set_index("method")["within"].groupby(level=0).first().to_dict() == {
        "kurtosis": "yes",
        "lape": "NOT RUN",
        "random_like_kurtosis": "yes",
    }


def test_ranks(exact):
    table = beside_langspec.ranks_beside(exact, model="base").set_index("method")
    assert table["rank_published"].to_dict() == {"kurtosis": "1", "random_like_kurtosis": "2", "lape": "3"}
    assert set(table["same_direction"]) == {"yes"}


def test_methods_that_are_equal_share_a_rank(exact):
    unharmed = exact[exact["masked_language"] == ""].set_index(["model", "evaluation_language"])["value"]
    places = zip(exact["model"], exact["evaluation_language"], strict=True)
    table = beside_langspec.ranks_beside(exact.assign(value=[unharmed[place] for place in places]), model="base")
    assert set(table["rank_ours"]) == {"1"}
    assert dict(zip(table["method"], table["same_direction"], strict=True))["lape"] == "no"


def test_sets_of_the_other_model_do_not_count(exact):
    """A study masks its base model with the chat model's sets, too; the paper's are the base model's own."""
    own = exact[(exact["model"] == "base") & (exact["method"] == "kurtosis")]
    unmasked = exact[(exact["model"] == "base") & (exact["masked_language"] == "")]
    harmless = unmasked.set_index("evaluation_language")["value"]
    others = own.assign(selected_on="chat", value=own["evaluation_language"].map(harmless))
    table = beside_langspec.ranks_beside(pd.concat([exact, others]), model="base").set_index("method")
    assert table.loc["kurtosis", "rank_ours"] == "1"
    assert len(table) == 3


def test_open_answers_are_held_against_the_stated_values(found):
    """The published LangSpec-F of open answers (released form, beta 4), to the rounding of the scores."""
    table = beside_langspec.open_langspec_beside(found, tolerances=TOLERANCES)
    assert len(table) == 9
    assert set(table["within"]) == {"yes"}
    assert table["difference"].abs().max() < 1e-9
    stated = read_frame(PUBLISHED)
    stated = stated[stated["metric"].str.startswith("langspec_f (")]
    names = {"CRANE": ("kurtosis", "published"), "CRANE top 1%": ("kurtosis", "0.01"), "LAPE": ("lape", "published")}
    ours = table.set_index(["method", "budget", "masked_language"])["ours"]
    assert len(stated) == 9
    for row in stated.itertuples():
        assert ours[(*names[row.method], row.masked_language)] == pytest.approx(float(row.value), abs=1e-3)


def test_open_answers_beyond_the_tolerance_or_missing(found):
    chosen = (found["method"] == "kurtosis") & (found["budget"] == "published") & (found["masked_language"] == "vi")
    moved = found.assign(langspec=found["langspec"].where(~chosen, 0.0))
    moved = moved[moved["method"] != "lape"]
    table = beside_langspec.open_langspec_beside(moved, tolerances=TOLERANCES)
    within = table.set_index(["method", "budget", "masked_language"])["within"]
    assert within.pop(("kurtosis", "published", "vi")) == "no"
    assert {method: set(part) for method, part in within.groupby(level=0)} == {"kurtosis": {"yes"}, "lape": {"NOT RUN"}}
    nothing = beside_langspec.open_langspec_beside(found.head(0), tolerances=TOLERANCES)
    assert set(nothing["within"]) == {"NOT RUN"}


def test_ranks_of_open_answers(found):
    table = beside_langspec.open_ranks_beside(found).set_index(["method", "budget"])
    assert table["rank_published"].to_dict() == {
        ("kurtosis", "published"): "1",
        ("kurtosis", "0.01"): "2",
        ("lape", "published"): "3",
    }
    assert set(table["same_direction"]) == {"yes"}
    raised = found.assign(langspec=found["langspec"].where(found["method"] != "lape", 1.0))
    ranks = beside_langspec.open_ranks_beside(raised).set_index("method")["rank_ours"]
    assert ranks["lape"] == "1"
    base_sets = beside_langspec.open_ranks_beside(found.assign(selected_on="base"))
    assert set(base_sets["same_direction"]) == {"NOT RUN"}
