"""Pieces of the HTML report: tables read back from their Markdown, pictures small enough to stand in the page."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from crane_lib.errors import CraneError

_COLOURS = 256  # of an embedded picture; the file beside it has all
_WIDEST = 1200  # pixels


@dataclass(frozen=True)
class Table:
    """A table of texts: headings, for each column whether it is set to the right, rows."""

    headings: list[str]
    right: list[bool]
    rows: list[list[str]]


def _cells(line: str) -> list[str]:
    """Cells of a line of a Markdown table, as `crane_lib.output.writing.escape_markdown` made them."""
    cells = re.findall(r"((?:\\.|[^\\|])*)\|", line.strip().removeprefix("|"))
    return [re.sub(r"\\(.)", r"\1", cell.strip()).replace("&lt;", "<") for cell in cells]


def read_markdown(path: Path) -> Table:
    """The table in a file that `crane_lib.output.writing.write_table` wrote.

    Raises
    ------
    CraneError : the file holds no such table
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    if len(lines) < 2:
        raise CraneError(f"{path}: holds no table; run the section that makes it again")
    headings, marks, *rows = (_cells(line) for line in lines)
    return Table(headings, [mark.endswith(":") and not mark.startswith(":") for mark in marks], rows)


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in a page."""

    source: str  # a data: address
    width: int
    height: int


def embed(path: Path) -> Picture:
    """A PNG with few colours, as WebP without further loss, in an address that holds it whole.

    Raises
    ------
    CraneError : the file is no picture
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise CraneError(f"{path}: cannot be read as a picture; delete it and run its section again") from error
    if picture.width > _WIDEST:
        size = (_WIDEST, round(picture.height * _WIDEST / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    few = picture.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    stream = io.BytesIO()
    few.save(stream, format="WEBP", lossless=True, quality=80, method=4)
    address = f"data:image/webp;base64,{b64encode(stream.getvalue()).decode('ascii')}"
    return Picture(address, picture.width, picture.height)
