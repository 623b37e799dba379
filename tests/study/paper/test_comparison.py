"""Our results compared with the paper's."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from crane_lib.methods import TOP_ROWS
from crane_lib.neurons import NeuronSet
from crane_lib.specificity import langspec as specificity
from crane_study.paper.comparison import (
    Published,
    accuracy_langspec,
    compare_directions,
    compare_langspec,
    compare_overlaps,
    compare_ranks,
    compare_runs,
    compare_values,
    score_langspec,
)
from crane_study.paper.published import TASK_OF_LANGUAGE as TASKS
from crane_study.paper.published import published_rows, published_runs, published_scores
from crane_study.paper.tolerances import load_tolerances
from crane_study.tables.overlap import overlaps
from crane_study.uncertainty.bootstrap import resample_items
from crane_study.uncertainty.intervals import set_changes
from crane_study.uncertainty.open_ended import open_langspec

TOLERANCES = load_tolerances()
BASE, CHAT = (Published.benchmarks(model, TOLERANCES) for model in ("base", "chat"))
ANSWERS = Published.open_answers(TOLERANCES)
SET = ["method", "budget"]
RUN = ["evaluation_language", "first_run"]


@pytest.fixture
def exact():
    """Rows of ours that are the published ones."""
    return published_rows().assign(n=1000)


def values(rows):
    return compare_values(rows, BASE, model="base")


def changes(rows, *, reach=0.0, published=BASE):
    """Changes of rows, each with an interval that reaches so far."""
    rows = rows[rows["model"] == published.rows["model"].iloc[0]]
    bare = rows["masked_language"] == ""
    before = rows["evaluation_language"].map(rows[bare].set_index("evaluation_language")["value"]).astype(float)
    frame = rows.assign(unmasked=before, change=rows["value"] - before)[~bare]
    return frame.assign(low=frame["change"] - reach, high=frame["change"] + reach)


def directions(rows, **given):
    return compare_directions(changes(rows, **given), BASE).set_index(["method", "masked_language"])


@pytest.mark.parametrize(("model", "published", "count"), [("base", BASE, 30), ("chat", CHAT, 21)])
def test_the_published_values_are_within_the_tolerance_of_themselves(exact, model, published, count):
    table = compare_values(exact, published, model=model)
    assert len(table) == count
    assert set(table["within"]) == {"yes"}
    assert (table["difference"] == 0).all()
    assert (table["tolerance"] > 0).all()


def test_a_value_beyond_the_tolerance_is_not_within(exact):
    chosen = (exact["model"] == "base") & (exact["method"] == "kurtosis") & (exact["masked_language"] == "en")
    moved = exact["value"].where(~(chosen & (exact["evaluation_language"] == "en")), exact["value"] - 0.11)
    outside = values(exact.assign(value=moved)).query("within == 'no'")
    found = outside[["method", "masked_language", "evaluation_language"]].to_numpy().tolist()
    assert found == [["kurtosis", "en", "en"]]
    assert outside["difference"].item() == pytest.approx(-0.11)
    # Units of another method were not selected by the released rule: nothing is added to the errors of the questions.
    table = values(exact).query("masked_language == 'en' and evaluation_language == 'en'").set_index("method")
    assert table.loc["lape", "tolerance"] == pytest.approx(1.96 * np.sqrt(2 * 0.4576 * (1 - 0.4576) / 14042))
    both = 2 * (BASE.selection**2 + 0.3483 * (1 - 0.3483) / 14042)
    assert table.loc["kurtosis", "tolerance"] == pytest.approx(1.96 * np.sqrt(both))


def test_the_authors_second_run_lies_within_the_tolerances_as_often_as_it_should(exact):
    table = compare_runs(BASE, exact)
    accuracies = table[table["metric"] == "accuracy"]
    assert len(accuracies) == 9
    known = accuracies[accuracies["second_run"].notna()]
    assert set(accuracies.drop(known.index)["within"]) == {"not known"}
    by_questions = [TOLERANCES.accuracy(TASKS[k], p, masked=True) for k, p in known[RUN].itertuples(index=False)]
    assert (known["difference"].abs() > by_questions).all()  # that is why they are known; the others lie within
    inside = len(accuracies) - len(known) + (known["within"] == "yes").sum()
    assert inside >= binom.ppf(0.05, len(accuracies), 0.95)
    assert set(table.loc[table["metric"] == "langspec_f1", "within"]) == {"yes"}
    # Ours, which here are the first run's, are beside them, for a study that compares.
    assert table["ours"].to_numpy() == pytest.approx(table["first_run"].to_numpy(), abs=6e-5)
    assert "ours" not in compare_runs(BASE, None)


def test_the_second_runs_langspec_follows_from_its_accuracies():
    again = published_runs().query("masked_language == 'zh'").set_index("evaluation_language")["second_run"]
    before = BASE.rows.query("masked_language == ''").set_index("evaluation_language")["value"].to_dict()
    found = specificity(before, again.drop("all").to_dict(), target="zh").f
    assert found == pytest.approx(again["all"], abs=0.002)  # of accuracies with three digits


def test_missing_rows_are_not_run_and_draws_are_averaged(exact):
    table = values(exact[exact["method"] != "lape"])
    assert set(table.loc[table["method"] == "lape", "within"]) == {"NOT RUN"}
    assert set(table.loc[table["method"] != "lape", "within"]) == {"yes"}
    assert set(values(exact.iloc[:0])["within"]) == {"NOT RUN"}
    assert set(directions(exact.iloc[:0])["same_direction"]) == {"NOT RUN"}
    drawn = exact[exact["method"] == "random_like_released"]
    two = [drawn.assign(value=drawn["value"] + step, random_seed=draw) for draw, step in ((0, -0.05), (1, 0.05))]
    table = values(pd.concat([exact[exact["method"] != "random_like_released"], *two]))
    random = table[table["method"] == "random_like_released"]
    assert random["difference"].abs().max() < 1e-12
    assert (random["tolerance"] > 1.96 * 0.07).all()  # the spread of the draws widens it


def test_directions_of_the_published_accuracies(exact):
    """The paper's own numbers in words: the English set costs Vietnamese most."""
    table = directions(exact)
    assert table.loc[("kurtosis", "en"), ["own_published", "most_published"]].tolist() == ["falls", "Vietnamese"]
    assert table.loc[("kurtosis", "zh"), "own_published"] == "no clear change"
    assert table.loc[("kurtosis", "vi"), "most_published"] == "Vietnamese"
    assert set(table.loc["lape", "own_published"]) == {"no clear change"}
    better = (exact["method"] == "kurtosis") & (exact["masked_language"] == "vi")
    table = directions(exact.assign(value=exact["value"].where(~better, 0.9)))  # every change is clear
    assert table.loc[("kurtosis", "vi"), ["own_ours", "same_direction"]].tolist() == ["rises", "no"]
    assert table.loc[("kurtosis", "en"), "same_direction"] == "yes"
    assert table.loc[("kurtosis", "zh"), "own_ours"] == "falls"
    assert set(table.loc["lape", "same_direction"]) == {"cannot tell"}  # the published changes are unclear
    assert not table.drop(columns=["budget"]).map(lambda cell: isinstance(cell, float)).to_numpy().any()
    # Intervals that hold 0: no change beside no change is no agreement.
    assert set(directions(exact, reach=0.5)["own_ours"]) == {"no clear change"}
    assert set(directions(exact, reach=0.5)["same_direction"]) == {"cannot tell"}


def answers(lost, *, seed=0):
    """Items of two languages: of 200 questions the unmasked model knows half, the masked one `lost` fewer."""
    knows = np.random.default_rng(seed).permutation(200) < 100
    frames = []
    for masked in ("", "en"):
        for language in ("en", "vi"):
            correct = knows & (np.cumsum(knows) > lost * (masked == language))
            labels = {"profile": "p", "model": "base", "selected_on": "base" if masked else "", "masked_share": 0.1}
            labels |= {"method": "kurtosis" if masked else "none", "budget": "published" if masked else ""}
            frame = pd.DataFrame({"language": language, "item": range(200), "correct": correct})
            frames.append(frame.assign(**labels, masked_language=masked, random_seed=-1))
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize(("lost", "word"), [(0, "no clear change"), (1, "no clear change"), (10, "falls")])
def test_what_is_clear_follows_from_the_same_questions(lost, word):
    """Ten of 200 that only the unmasked model knows are clear, though as many differ where others are asked."""
    found = set_changes(resample_items(answers(lost)))
    row = compare_directions(found, BASE).set_index(["method", "masked_language"]).loc[("kurtosis", "en")]
    assert row["own_ours"] == word
    assert row["most_ours"] == ("English" if word == "falls" else "none clearly")
    assert TOLERANCES.accuracy_noise(0.5, 200) > 10 / 200


def test_open_ended_scores():
    scores = published_scores().assign(n=70)
    table = compare_values(scores, ANSWERS, model="chat")
    assert len(table) == 30
    assert set(table["within"]) == {"yes"}
    assert table["tolerance"].unique().tolist() == pytest.approx([1.96 * 2.5 * (2 / 70) ** 0.5])
    words = compare_directions(changes(scores, published=ANSWERS, reach=0.8), ANSWERS)
    unclear = (words["own_published"] == "no clear change") & (words["most_published"] == "none clearly")
    assert set(words.loc[unclear, "same_direction"]) == {"cannot tell"}
    assert "no" not in set(words["same_direction"])
    assert set(words.loc[words["method"] == "kurtosis", "most_published"]) == {"Vietnamese"}


# --- LangSpec-F ---


@pytest.fixture(scope="module")
def found():
    """LangSpec-F of judged answers whose means are the published scores; they spread by up to 2 points around them."""
    frames = [
        pd.DataFrame({"question": range(5), "score": row["value"] + np.linspace(-2, 2, 5)}).assign(
            **row.drop(["value", "evaluation_language"]), language=row["evaluation_language"], judge="endpoint"
        )
        for _, row in published_scores().iterrows()
    ]
    return open_langspec(pd.concat(frames, ignore_index=True), resamples=2)


def langspec(rows):
    return compare_langspec(accuracy_langspec(rows, model="base"), BASE)


def ranks(rows):
    return compare_ranks(accuracy_langspec(rows, model="base"), BASE).set_index("method")


def test_langspec_and_ranks_of_accuracies(exact):
    table = langspec(exact)
    published = table.set_index(["method", "masked_language"])["published"]
    assert published["kurtosis", "vi"] == pytest.approx(0.4907, abs=6e-5)
    assert published["lape", "zh"] == pytest.approx(0.0337, abs=6e-5)
    assert set(table["within"]) == {"yes"}
    lacking = langspec(exact[exact["method"] != "lape"])
    within = lacking.groupby("method")["within"].agg(set).to_dict()
    assert within == {"kurtosis": {"yes"}, "lape": {"NOT RUN"}, "random_like_released": {"yes"}}
    table = ranks(exact)
    assert table["rank_published"].to_dict() == {"kurtosis": "1", "random_like_released": "2", "lape": "3"}
    assert set(table["same_direction"]) == {"yes"}
    lacking = ranks(exact[exact["method"] != "lape"])["rank_ours"]
    assert lacking.to_dict() == {"kurtosis": "1", "random_like_released": "2", "lape": "NOT RUN"}
    unharmed = exact[exact["masked_language"] == ""].set_index(["model", "evaluation_language"])["value"]
    places = zip(exact["model"], exact["evaluation_language"], strict=True)
    table = ranks(exact.assign(value=[unharmed[place] for place in places]))
    assert set(table["rank_ours"]) == {"1"}  # equal methods share a rank
    assert table.loc["lape", "same_direction"] == "no"
    # A study masks its base model with the chat model's sets, too; the paper's are the base model's own.
    own = exact[(exact["model"] == "base") & (exact["method"] == "kurtosis")]
    others = own.assign(selected_on="chat", value=own["evaluation_language"].map(unharmed["base"]))
    table = ranks(pd.concat([exact, others]))
    assert table.loc["kurtosis", "rank_ours"] == "1"
    assert len(table) == 3


def test_langspec_and_ranks_of_open_answers(found):
    table = compare_langspec(score_langspec(found), ANSWERS)
    assert set(table["within"]) == {"yes"}
    assert table["difference"].abs().max() < 1e-9
    assert len(table) == 9
    chosen = (found["method"] == "kurtosis") & (found["budget"] == "published") & (found["masked_language"] == "vi")
    moved = found.assign(langspec=found["langspec"].where(~chosen, 0.0))
    table = compare_langspec(score_langspec(moved[moved["method"] != "lape"]), ANSWERS)
    within = table.set_index([*SET, "masked_language"])["within"]
    assert within.pop(("kurtosis", "published", "vi")) == "no"
    assert {method: set(part) for method, part in within.groupby(level=0)} == {"kurtosis": {"yes"}, "lape": {"NOT RUN"}}
    assert set(compare_langspec({}, ANSWERS)["within"]) == {"NOT RUN"}
    table = compare_ranks(score_langspec(found), ANSWERS).set_index(SET)
    ranked = {("kurtosis", "published"): "1", ("kurtosis", TOP_ROWS): "2", ("lape", "published"): "3"}
    assert table["rank_published"].to_dict() == ranked
    assert set(table["same_direction"]) == {"yes"}
    raised = found.assign(langspec=found["langspec"].where(found["method"] != "lape", 1.0))
    assert compare_ranks(score_langspec(raised), ANSWERS).set_index("method").loc["lape", "rank_ours"] == "1"
    other_sets = compare_ranks(score_langspec(found.assign(selected_on="base")), ANSWERS)
    assert set(other_sets["same_direction"]) == {"NOT RUN"}


# --- Overlaps ---

# Chance is of a set shaped like the second: Vietnamese has four times as many units as English, Chinese twice.
OVERLAPS = pd.DataFrame(
    [
        ("en", "vi", 0.30, 0.36, 0.32, 0.40),
        ("vi", "en", 0.25, 0.09, 0.07, 0.11),
        ("en", "zh", 0.30, 0.18, 0.15, 0.21),
        ("zh", "en", 0.10, 0.09, 0.06, 0.12),
        ("zh", "vi", 0.25, 0.36, 0.34, 0.38),
        ("vi", "zh", np.nan, np.nan, np.nan, np.nan),
    ],
    columns=["language_a", "language_b", "share_of_a", "expected_share_of_a", "chance_low", "chance_high"],
)
# English has more of Vietnamese than of itself in a random set of its size, and less than by chance.
DIRECTIONS = {  # published, where every pair is above its chance; ours; the same
    ("en", "vi"): ("more than chance", "less than chance", "no"),
    ("vi", "en"): ("more than chance", "more than chance", "yes"),
    ("en", "zh"): ("more than chance", "more than chance", "yes"),
    ("zh", "en"): ("more than chance", "no clear difference", "cannot tell"),
    ("zh", "vi"): ("more than chance", "less than chance", "no"),
    ("vi", "zh"): ("more than chance", "NOT RUN", "NOT RUN"),
}


def compared(table=OVERLAPS, *, same_model):
    found = compare_overlaps(table, with_random=0.09, tolerances=TOLERANCES, same_model=same_model)
    return found.set_index(["language_a", "language_b"])


def test_overlaps_have_directions_and_values_on_the_papers_model():
    table = compared(same_model=False)
    assert not {"ours", "difference"} & set(table)
    words = table.drop(columns=["published", "published_chance"])
    assert {pair: tuple(row) for pair, row in words.iterrows()} == DIRECTIONS
    table = compared(same_model=True)
    assert table.drop(("en", "random"))["our_direction"].to_dict() == {k: v[1] for k, v in DIRECTIONS.items()}
    within = table["within"].to_dict()
    assert within[("vi", "en")] == within[("en", "random")] == "yes"
    assert within[("en", "zh")] == within[("zh", "en")] == "no"
    assert within[("vi", "zh")] == "NOT RUN"
    assert table.loc[("en", "random"), ["ours", "our_direction"]].tolist() == [0.09, ""]
    assert table.loc[("zh", "vi"), ["expected_share_of_a", "chance_low", "chance_high"]].tolist() == [0.36, 0.34, 0.38]
    for edge in ("chance_low", "chance_high"):
        table = compared(OVERLAPS.assign(share_of_a=OVERLAPS[edge]), same_model=False)
        assert table["our_direction"].iloc[0] == "no clear difference"


def test_sets_of_very_different_sizes():
    """By chance a large set has most of a small one: sharing half of it is less than chance, though not little."""
    sets = [
        NeuronSet({"neuron": [indices]}, {"neuron": 100}, "m", "kurtosis", "published", language)
        for language, indices in (("en", np.arange(10)), ("vi", np.arange(5, 95)))
    ]
    table = compared(overlaps(sets), same_model=False)["our_direction"]
    assert table[("en", "vi")] == table[("vi", "en")] == "less than chance"
    assert set(table.drop([("en", "vi"), ("vi", "en")])) == {"NOT RUN"}
    assert set(compared(overlaps([]), same_model=False)["same_direction"]) == {"NOT RUN"}
