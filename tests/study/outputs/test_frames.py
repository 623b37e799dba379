"""Reading tidy rows."""

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.frames import read_frame, write_frame
from crane_study.measure.rows import budget_text, effects, over_draws, pick, tidy


def test_budgets_and_draws():
    values = (0.1, "0.10", "0.1", "published", "", None, float("nan"))
    assert list(map(budget_text, values)) == ["0.1"] * 3 + ["published"] + [""] * 3
    frame = pd.DataFrame({"method": ["a", "a", "b"], "x": [1.0, 3.0, 5.0]})
    found = over_draws(frame, by=["method"], value="x")
    assert found.to_numpy().tolist() == [["a", 2.0, 1.0, 3.0, 2], ["b", 5.0, 5.0, 5.0, 1]]


def test_a_csv_with_numeric_budgets_only(rows, tmp_path):
    """Such a file gives the budget back as a number."""
    part = rows[rows["method"] == "contrast"]
    write_frame(tmp_path / "rows.csv", part)
    seen = read_frame(tmp_path / "rows.csv")
    assert seen["budget"].dtype == float
    assert len(pick(tidy(seen), budget=0.1)) == len(pick(tidy(seen), budget="0.10")) == len(part)


def test_effects(rows):
    found = effects(rows, metric="nll")
    own = pick(found, model="base", method="contrast", masked_language="en", evaluation_language="en").iloc[0]
    assert own["unmasked"] == 0.69
    assert own["change"] == pytest.approx(1.4)
    assert own["relative_drop"] == pytest.approx(-1.4 / 0.69)
    assert (found["masked_language"] != "").all()
    # Where nothing can be lost, there is no share of it.
    zero = rows.assign(value=np.where(rows["masked_language"] == "", 0.0, rows["value"]))
    assert effects(zero, metric="accuracy")["relative_drop"].isna().all()
    # Rows that cannot be compared are refused.
    with pytest.raises(CraneError, match="two unmasked values of nll for base, en"):
        effects(pd.concat([rows, rows.head(1)]), metric="nll")
    with pytest.raises(CraneError, match="no column 'budget'"):
        effects(rows.drop(columns="budget"), metric="nll")
