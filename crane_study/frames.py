"""Tables as files: CSV at full precision, or Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from crane_lib.errors import CraneError
from crane_lib.files import atomic

if TYPE_CHECKING:
    import pandas as pd

_STATE = "kept state"  # column of a kept table that names its state


def write_frame(path: str | os.PathLike[str], frame: pd.DataFrame, *, checksums: bool = False) -> None:
    """Write a table as Parquet, with checksums if asked, or as CSV at full precision, depending on the suffix."""
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            frame.to_parquet(temporary, index=False, write_page_checksum=checksums)
        else:
            frame.to_csv(temporary, index=False, na_rep="NaN")


def write_frames(path: str | os.PathLike[str], frames: Iterable[pd.DataFrame]) -> None:
    """Write tables of the same columns one below the other as Parquet, a row group each; without any, no file."""
    import pyarrow as pa  # here, so that the command line starts without it
    from pyarrow.parquet import ParquetWriter

    frames = iter(frames)
    if (first := next(frames, None)) is None:
        return
    schema = pa.Schema.from_pandas(first, preserve_index=False)
    with atomic(path) as temporary, ParquetWriter(temporary, schema) as writer:
        for frame in chain([first], frames):
            writer.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))


def keep_frame(path: str | os.PathLike[str], frame: pd.DataFrame, *, state: str) -> None:
    """Write a table with checksums for a later start, and the state of the work that it is of."""
    write_frame(path, frame.assign(**{_STATE: state}), checksums=True)


def kept_frame(path: str | os.PathLike[str], *, state: str) -> pd.DataFrame | None:
    """Read a table that `keep_frame` wrote; None if the file is missing, damaged or of another state."""
    try:
        frame = read_frame(path)
        states = frame.pop(_STATE)
    except (CraneError, KeyError):
        return None
    return frame if len(frame) and (states == state).all() else None


def read_frame(path: str | os.PathLike[str], *, texts: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table written by `write_frame`; in CSV an empty field is an empty text in a text column.

    `texts` names columns of a CSV that hold text even if it looks like numbers.
    """
    import pandas as pd  # here, so that the command line starts without it

    if not Path(path).is_file():
        raise CraneError(f"{path}: no such file; run the section that makes it first")
    try:
        if Path(path).suffix == ".parquet":
            return pd.read_parquet(path, page_checksum_verification=True)
        return pd.read_csv(path, keep_default_na=False, na_values=["NaN"], dtype=dict.fromkeys(texts, "str"))
    except Exception as error:  # a damaged file breaks the reader anywhere
        raise CraneError(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:120]})") from error
