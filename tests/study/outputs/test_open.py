"""Tables and figures of open-ended generation."""

import numpy as np
import pytest

from crane_lib.errors import CraneError
from crane_study import figures
from crane_study.publish import write_table
from crane_study.tables import effects as tables
from crane_study.tables import open_ended as tables_open
from crane_study.uncertainty.open_ended import open_langspec, score_changes, score_rows
from tests.study.uncertainty.test_open_ended import make_items

CONTRAST = [("contrast", "0.1")]


@pytest.fixture(scope="module")
def items():
    frame = make_items()
    mask = frame["method"] + frame["masked_language"]
    number = frame["question"].astype(str)
    frame["text"] = frame["language"] + " question " + number
    frame["answer"] = frame["language"] + " answer " + number + " " + mask
    parts = {"facts": np.where(frame["score"] > 7, 1.0, 0.0), "language_kept": 0.5, "fluency": np.nan}
    return frame.assign(**parts, tokens=4, finished=True)


@pytest.fixture(scope="module")
def rows(items):
    return score_rows(items, main="offline")


def test_langspec_table(items, rows):
    langspec = open_langspec(items, resamples=50)
    for form in ("f1", "released"):
        table = tables_open.open_langspec_table(langspec, rows, form=form)
        assert table["method"].tolist() == ["contrast", "random_like_contrast"]
        np.testing.assert_allclose(table[["en", "zh", "vi"]].mean(axis=1), table["mean"])
        assert (table["masked_share"] == 0.1).all()
        assert table["draws"].tolist() == [1, 2]
        assert table["mean"][0] > table["mean"][1]
        assert table["p_value"][0] == table["p_holm"][0] == 1 / 3**3  # two draws in each of three languages
        assert table[["p_value", "p_holm"]].loc[1].isna().all()
    # The matrix of scores is the study's own.
    table = tables.matrix_table(rows, "contrast", "judge_score", budget="0.1", model="chat", selected_on="base")
    assert table["masked_language"].tolist() == ["", "en", "zh", "vi"]
    drops = table.set_index("masked_language").drop("") - table.set_index("masked_language").loc[""]
    assert (np.diag(drops) < -2.5).all()


def test_parts_table(items):
    part = items.copy()
    part.loc[(part["question"] < 2) & (part["method"] == "contrast"), "score"] = np.nan
    table = tables_open.parts_table(part, CONTRAST)
    assert len(table) == 3 + 9
    assert "fluency" not in table  # no judge gave it
    assert table[table["method"] == "contrast"]["missing"].tolist() == [2] * 9
    unmasked = table[table["method"] == "none"]
    assert unmasked["missing"].tolist() == [0] * 3
    assert unmasked["facts"].between(0.3, 1).all()
    assert (table["tokens"] == 4).all()


def test_examples_are_the_first_that_were_answered_well(items, tmp_path):
    table = tables_open.example_answers(items, method="contrast", budget="0.1", count=3)
    unmasked = items[items["method"] == "none"].groupby("question")["score"].min()
    good = [number for number, score in unmasked.items() if score >= 8][:3]
    assert len(good) == 3
    assert table["question"].tolist() == [f"{k} question {n}" for n in good for k in ("en", "zh", "vi")]
    first = table.iloc[0]
    assert first["unmasked"] == f"en answer {good[0]} none"
    assert first["Chinese masked"] == f"en answer {good[0]} contrastzh"
    assert list(table) == ["language", "question", "unmasked", "English masked", "Chinese masked", "Vietnamese masked"]
    # Without good answers the first are shown, long ones cut.
    bad = items.assign(score=1.0, answer=lambda frame: frame["answer"] + "\n|<b>" + "x" * 400)
    bad.loc[bad["question"] == 0, "answer"] = " "
    table = tables_open.example_answers(bad, method="contrast", budget="0.1", count=2)
    assert table["unmasked"].tolist()[:3] == ["(nothing)"] * 3
    assert table["unmasked"].str.len().max() <= 162
    write_table(table, tmp_path / "answers", caption="Answers.")
    lines = (tmp_path / "answers.md").read_text().splitlines()
    assert len(lines) == 2 + 2 + 6
    assert {line.replace("\\|", "").count("|") for line in lines[2:]} == {7}
    assert not any("<b>" in line for line in lines)


def test_two_languages_are_enough_sets_are_needed_and_missing_scores_are_a_dash(items, tmp_path):
    two = items[(items["language"] != "zh") & (items["masked_language"] != "zh")]
    changes, langspec = score_changes(two, resamples=20), open_langspec(two, resamples=20)
    assert set(langspec["masked_language"]) == {"en", "vi", "mean"}
    for draw, frame in ((figures.score_matrices, changes), (figures.open_langspec_bars, langspec)):
        draw(frame, tmp_path / "two")
        with pytest.raises(CraneError, match="selected on the chat model"):
            draw(frame, tmp_path / "none", selected_on="chat")
    # Scores that are missing are a dash and not a number.
    part = items.copy()
    part.loc[(part["method"] == "contrast") & (part["masked_language"] == "en"), "score"] = np.nan
    changes = score_changes(part, resamples=20)
    assert "nan" not in figures.score_matrices(changes, tmp_path / "scores")
    told = (tmp_path / "scores.txt").read_text(encoding="utf-8")
    panel = told[told.index("Relevance contrast, 10 %") :].splitlines()
    assert panel[1] == "  row en: en: –; zh: –; vi: –"
    assert "–" not in panel[2] + panel[3]
