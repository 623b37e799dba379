import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane_lib.errors import CraneError
from crane_study.frames import read_frame, write_frame, write_frames


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_come_back_as_they_were(tmp_path, ending):
    frame = pd.DataFrame(
        {
            "text": ["", "NA", "None", 'a,b\n"c"', "语"],
            "number": [1, 2, 3, 4, -1],
            "value": [0.1, 1 / 3, np.nan, 1e-300, -12345678.123456789],
        }
    )
    write_frame(tmp_path / f"a.{ending}", frame)
    again = read_frame(tmp_path / f"a.{ending}")
    pd.testing.assert_frame_equal(again, frame, check_exact=True, check_dtype=ending == "parquet")
    assert again["value"].dtype == np.float64
    assert again["text"].tolist() == frame["text"].tolist()


def test_frames_one_below_the_other_are_one_table(tmp_path):
    frame = pd.DataFrame({"text": ["", "语", "a", ""], "number": [1, 2, 3, 4], "value": [0.1, np.nan, 1e-300, -0.0]})
    write_frames(tmp_path / "parts.parquet", (frame.iloc[start : start + 2] for start in (0, 2)))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "parts.parquet"), frame, check_exact=True)
    write_frames(tmp_path / "one.parquet", [frame])
    write_frame(tmp_path / "whole.parquet", frame)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()

    def interrupted():
        yield frame
        raise CraneError("in the middle")

    write_frames(tmp_path / "none.parquet", [])
    with pytest.raises(CraneError, match="in the middle"):
        write_frames(tmp_path / "none.parquet", interrupted())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "parts.parquet", "whole.parquet"]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_csv_keeps_every_digit(values, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "digits.csv"
    write_frame(path, pd.DataFrame({"value": values}))
    assert read_frame(path)["value"].astype(float).tolist() == values


def test_a_missing_table(tmp_path):
    with pytest.raises(CraneError, match=r"a\.csv: no such file; run the section"):
        read_frame(tmp_path / "a.csv")
