"""Numbers of a run beside those of a reference, with the intervals that rows have of their own."""

import pytest

from crane_run.verify import Reference, Table, compare
from crane_study.paper.tolerances import Reproduction

RULES = {
    "verdicts_as_information": [],
    "identity": {"*": ["method"]},
    "widening": 3,
    "rules": [{"why": "w", "columns": ["share", "low", "high"], "interval": True, "absolute": 0.01}],
}


def table(**columns):
    return Table(key=["method"], columns=list(columns), rows={"contrast": list(columns.values())})


def differing(ours, theirs):
    """Columns that differ, and the comparison."""
    reference = Reference(profile={}, made_with={}, verdicts={}, tables={"tables/10_t.csv": theirs}, sha256={})
    found = compare(
        reference,
        tables={"tables/10_t.csv": ours},
        verdicts={},
        profile={},
        lacking={},
        rules=Reproduction.model_validate(RULES),
    )
    return [one.column for one in found.differences], found


@pytest.mark.parametrize(
    ("column", "width"),
    [
        ("share", 0.2),
        ("share_low", 0.2),
        ("share_high", 0.2),
        ("own_drop", 0.1),
        ("own_high", 0.1),
        ("mean", 0.4),
        ("low", 0.4),
        ("high", 0.4),
    ],
)
def test_an_interval_belongs_to_its_column(column, width):
    names = {"share": 0.5, "share_low": 0.3, "share_high": 0.7, "own_drop": 0.2, "own_low": 0.1, "own_high": 0.3}
    one = table(**names, mean=0.5, low=0.1, high=0.9)
    assert one.half_width("contrast", column) == pytest.approx(width)


def test_without_an_interval_there_is_no_width():
    assert table(share=0.5, mean_low=0.1, mean_high=0.2).half_width("contrast", "share") == 0
    assert table(share=0.5, low=None, high=0.2).half_width("contrast", "share") == 0


def test_a_value_may_lie_within_the_widened_interval():
    reference = table(share=0.5, low=0.4, high=0.6)  # three times .1, and .01
    assert differing(table(share=0.8, low=0.7, high=0.9), reference)[0] == []
    assert sorted(differing(table(share=0.82, low=0.7, high=0.92), reference)[0]) == ["high", "share"]
    narrow = table(share=0.5, low=0.49, high=0.51)
    columns, found = differing(table(share=0.55, low=0.54, high=0.56), narrow)
    assert sorted(columns) == ["high", "low", "share"]
    assert found.differences[0].tolerance == pytest.approx(0.04)


def test_power_counts_what_a_0_would_have_failed():
    theirs = table(share=0.2, low=0.1, high=0.3)  # the tolerance is .31
    assert differing(theirs, theirs)[1].could_fail == 0
    theirs = table(share=0.5, low=0.45, high=0.0)  # an interval that ends in 0 is as wide as it looks
    assert (differing(theirs, theirs)[1].could_fail, differing(theirs, theirs)[1].zeros) == (0, 1)
    theirs = table(share=0.5, low=0.45, high=0.55)
    assert differing(theirs, theirs)[1].could_fail == 3


def test_a_text_needs_no_rule_and_is_told_where_it_differs():
    theirs = table(share=0.5, worst="zh", note=None)
    columns, found = differing(table(share=0.5, worst="vi", note=None), theirs)
    assert (columns, [one.column for one in found.information]) == ([], ["worst"])
    assert found.numbers == 1
