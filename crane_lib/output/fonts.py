"""Fonts: matplotlib's own, and one with Chinese characters where the machine has it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from matplotlib import font_manager

LATIN = "DejaVu Sans"  # comes with matplotlib; has the letters of Vietnamese
# A package that holds nothing but Noto Sans SC and Noto Serif SC (SIL Open Font License 1.1).
PACKAGE, FILE = "pylopdf_fonts_zh_cn", "NotoSansSC-Regular.otf"
_INSTALLED = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


@cache
def chinese_family() -> str | None:
    """Name of a font with Chinese characters: the packaged one, else an installed one, else None."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(place, FILE)
        if file.is_file():
            font_manager.fontManager.addfont(file)
            return str(font_manager.FontProperties(fname=str(file)).get_name())
    known = {entry.name for entry in font_manager.fontManager.ttflist}
    return next((name for name in _INSTALLED if name in known), None)


def families() -> list[str]:
    """Font families in the order in which a character is looked for in them."""
    chinese = chinese_family()
    return [LATIN, chinese] if chinese else [LATIN]


@cache
def _characters(families: tuple[str, ...]) -> frozenset[int]:
    """Code points that the fonts can draw."""
    found: set[int] = set()
    for family in families:
        file = font_manager.findfont(font_manager.FontProperties(family=family))
        found.update(font_manager.get_font(file).get_charmap())
    return frozenset(found)


def drawable(text: str) -> bool:
    """Whether every character of a text has a shape in the fonts; white space always has."""
    known = _characters(tuple(families()))
    return all(character.isspace() or ord(character) in known for character in text)
