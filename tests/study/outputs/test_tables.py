"""Shapes of tables against numbers worked out by hand, and the three files of a table."""

import re

import numpy as np
import pandas as pd
import pytest

from crane_study.frames import read_frame
from crane_study.publish import escape_latex, escape_markdown, header_text, number_text, table_words
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
    assert row["draws"] == synthetic.DRAWS
    assert (row["lowest"], row["highest"]) == (draws.min(), draws.max())
    assert row["mean"] == pytest.approx(draws.mean())
    order = table["method"].drop_duplicates().tolist()
    assert order[:3] == ["contrast", "kurtosis", "lape"]
    assert table["metric"].drop_duplicates().tolist() == ["token_probability", "accuracy"]


def test_main_table_without_rows(langspec):
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


def test_matrix_table_averages_draws(rows):
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
    assert row["own_rise"] == pytest.approx(1.4)
    assert row["worst_other"] == "vi"
    assert row["worst_other_rise"] == pytest.approx(0.03 * 1.1)
    assert row["ratio"] == pytest.approx(1.4 / 0.033)
    alone = tables.specificity_table(synthetic.make_rows({("contrast", "0.1"): (1.0, -0.1, 0.1)}, models=("base",)))
    assert np.isinf(alone["ratio"]).all()


def test_transfer_table(rows, langspec):
    table = tables.transfer_table(rows, langspec, metric="accuracy")
    keys = ["method", "budget", "masked_language", "model", "selected_on"]
    row = table.set_index(keys).loc[("contrast", "0.1", "en", "chat", "base")]
    assert row["own_drop"] == pytest.approx(0.3 * 1.4)
    assert row["worst_other"] == "vi"
    assert row["worst_other_drop"] == pytest.approx(0.3 * 0.03 * 1.1)
    expected = langspec.set_index(["method", "budget", "masked_language", "model", "selected_on", "metric"])
    assert row["langspec_f1"] == expected.loc[("contrast", "0.1", "en", "chat", "base", "accuracy"), "langspec_f1"]


def test_guesser_and_facts_tables():
    table = tables.guesser_table(synthetic.make_guessers()).set_index("language")
    assert list(table.columns) == ["n", "model", "overlap", "longest", "shortest", "answer_frequency"]
    assert table.loc["vi", "overlap"] == 0.58
    facts = pd.DataFrame({"subject": ["city", "clock"], "stated": [10, 20], "unnamed_zh": [1, 2], "kept": [9, 18]})
    total = tables.facts_table(facts).set_index("subject").loc["all"]
    assert total.tolist() == [30, 3, 27]


def test_seed_correlations():
    one = {"en": np.array([[1.0, 2, 3, 4], [4.0, 3, 2, 1]])}
    other = {"en": np.array([[10.0, 20, 30, 40], [1.0, 2, 3, 4]]), "zh": np.zeros((2, 4))}
    table = tables.objective_correlations(one, other).set_index("layer")["rank_correlation"]
    assert list(table.index) == [-1, 0, 1]
    assert (table[0], table[1]) == (pytest.approx(1.0), pytest.approx(-1.0))


SPECIAL = pd.DataFrame(
    {
        "method": ["contrast", "lape"],
        "budget": ["0.1", "published"],
        "masked_language": ["zh", ""],
        "note": ["50 % of a_b & c|d", "{x} \\ $1 ~ ^#\nnext"],
        "value": [0.1 + 0.2, np.nan],
        "small": [1e-7, -0.0001],
        "n": [3, 4],
    }
)


def test_csv_keeps_every_digit(tmp_path):
    tables.write_table(SPECIAL, tmp_path / "special", caption="A table.")
    seen = read_frame(tmp_path / "special.csv")
    assert seen["value"].tolist()[0] == 0.1 + 0.2
    assert np.isnan(seen["value"].tolist()[1])
    assert seen["masked_language"].tolist() == ["zh", ""]
    assert seen["small"].tolist() == SPECIAL["small"].tolist()
    assert "NaN" in (tmp_path / "special.csv").read_text(encoding="utf-8")


def test_markdown_is_rounded_and_in_words(tmp_path):
    caption = tables.write_table(SPECIAL, tmp_path / "special", caption="A table.", digits=2)
    text = re.sub(" +", " ", (tmp_path / "special.md").read_text(encoding="utf-8"))
    assert caption == "A table."
    assert text.startswith("A table.\n\n| Method | Budget | Masked language |")
    assert "| Relevance contrast | 10 % | Chinese | 50 % of a_b & c\\|d | 0.30 | 1e-07 | 3 |" in text
    assert "| LAPE | as published | none | {x} \\\\ $1 ~ ^# next | – | -1e-04 | 4 |" in text
    lines = text.splitlines()[2:]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}


def test_latex_is_escaped_and_balanced(tmp_path):
    tables.write_table(SPECIAL, tmp_path / "03_special", caption="Share of 5 % & more_or_less.", digits=2)
    text = (tmp_path / "03_special.tex").read_text(encoding="utf-8")
    assert r"\caption{Share of 5 \% \& more\_or\_less.}" in text
    assert r"\label{tab:03-special}" in text
    assert r"\begin{tabular}{llllrrr}" in text
    assert r"50 \% of a\_b \& c|d" in text
    assert r"\{x\} \textbackslash{} \$1 \textasciitilde{} \textasciicircum{}\# next" in text
    rows = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    cells = [len(re.findall(r"(?<!\\)&", row)) for row in rows if row.endswith(r"\\")]
    assert cells == [6, 6, 6]
    for command in ("toprule", "midrule", "bottomrule", "end{tabular}", "end{table}"):
        assert text.count("\\" + command) == 1


def test_same_bytes_twice(tmp_path, langspec):
    for folder in ("one", "two"):
        tables.write_table(tables.main_table(langspec), tmp_path / folder / "main", caption="Main.")
    for kind in ("csv", "md", "tex"):
        one, two = (tmp_path / folder / f"main.{kind}" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_single_draws_have_no_range():
    frame = pd.DataFrame({"mean": [0.1, 0.2], "lowest": [0.1, 0.1], "highest": [0.1, 0.3], "draws": [1, 5]})
    table = table_words(frame.assign(random_seed=[-1, 3]))
    cells = dict(zip(table.headings, zip(*table.rows, strict=True), strict=True))
    assert cells["Lowest"] == ("–", "0.100")
    assert cells["Random seed"] == ("–", "3")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.12345, 3, "0.123"),
        (0.0, 3, "0.000"),
        (0.0004, 3, "4e-04"),
        (-0.0, 2, "0.00"),
        (12.0, 0, "12"),
        (np.nan, 3, "–"),
    ],
)
def test_number_text(value, digits, text):
    assert number_text(value, digits) == text


def test_headers():
    assert [header_text(name) for name in ("zh", "delta_nll", "masked_share", "fr", "Rule of LAPE")] == [
        "Chinese",
        "NLL rise",
        "Share masked",
        "French",
        "Rule of LAPE",
    ]


def test_escapes_leave_plain_text_alone():
    plain = "Đơn vị tiền tệ 欧元 (5.2)"
    assert escape_latex(plain) == escape_markdown(plain) == plain
    assert escape_markdown("<b>") == "&lt;b>"
