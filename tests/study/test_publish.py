"""Tables in the forms that a reader sees."""

import re

import numpy as np
import pandas as pd
import pytest

from crane_study.frames import read_frame
from crane_study.publish import escape_latex, escape_markdown, header_text, number_text, table_words, write_table

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
    write_table(SPECIAL, tmp_path / "special", caption="A table.")
    seen = read_frame(tmp_path / "special.csv")
    assert seen["value"].tolist()[0] == 0.1 + 0.2
    assert np.isnan(seen["value"].tolist()[1])
    assert seen["masked_language"].tolist() == ["zh", ""]
    assert seen["small"].tolist() == SPECIAL["small"].tolist()
    assert "NaN" in (tmp_path / "special.csv").read_text(encoding="utf-8")


def test_markdown_is_rounded_and_in_words(tmp_path):
    caption = write_table(SPECIAL, tmp_path / "special", caption="A table.", digits=2)
    text = (tmp_path / "special.md").read_text(encoding="utf-8")
    assert caption == "A table."
    assert text.startswith("A table.\n\n| Method | Budget | Masked language |")
    assert "| Relevance contrast | 10 % | Chinese | 50 % of a_b & c\\|d | 0.30 | 1e-07 | 3 |" in text
    assert "| LAPE | as published | none | {x} \\\\ $1 ~ ^# next | – | -1e-04 | 4 |" in text
    lines = text.splitlines()[2:]
    assert lines[1] == "| :-- | :-- | :-- | :-- | --: | --: | --: |"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}


def test_latex_is_escaped_and_balanced(tmp_path):
    for folder in ("one", "two"):
        write_table(SPECIAL, tmp_path / folder / "03_special", caption="Share of 5 % & more_or_less.", digits=2)
    for path in (tmp_path / "one").glob("03_*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    text = (tmp_path / "one" / "03_special.tex").read_text(encoding="utf-8")
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


def test_headers_and_escapes():
    names = ("zh", "delta_nll", "masked_share", "fr", "Rule of LAPE")
    expected = ["Chinese", "NLL rise", "Share masked", "French", "Rule of LAPE"]
    assert [header_text(name) for name in names] == expected
    plain = "Đơn vị tiền tệ 欧元 (5.2)"
    assert escape_latex(plain) == escape_markdown(plain) == plain
    assert escape_markdown("<b>") == "&lt;b>"
