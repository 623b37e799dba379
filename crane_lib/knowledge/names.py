"""Names of territories, languages, currencies and the like, as Unicode CLDR gives them.

Babel ships CLDR, so nothing is downloaded. A name that does not fit into a running sentence (one with brackets, a
list, a political qualifier) is left out rather than rewritten.
"""

from __future__ import annotations

from functools import cache

from babel import Locale, UnknownLocaleError
from babel.dates import get_timezone, get_timezone_location
from babel.units import UnknownUnitError, format_unit

LANGUAGES = ("en", "zh", "vi")

_UNFIT_CHARACTERS = set("()（）,，&/-–·、")
_UNFIT_WORDS = ("SAR", "特别行政区", "Đặc khu", "Outlying", "Antarctica", "Unknown")

# CLDR does not name physical quantities.
_QUANTITIES = {
    "digital": ("data size", "数据量", "dung lượng dữ liệu"),
    "electric": ("electricity", "电", "điện"),
    "energy": ("energy", "能量", "năng lượng"),
    "force": ("force", "力", "độ lớn của lực"),
    "light": ("the intensity of light", "光的强度", "cường độ ánh sáng"),
    "mass": ("mass", "质量", "khối lượng"),
    "pressure": ("pressure", "压强", "áp suất"),
    "temperature": ("temperature", "温度", "nhiệt độ"),
}

# English names of territories that take the definite article inside a sentence.
_ENGLISH_ARTICLE_ENDINGS = ("Islands", "Republic", "Emirates", "States", "Kingdom", "Territories", "Netherlands")
_ENGLISH_ARTICLE_NAMES = {"Bahamas", "Comoros", "Gambia", "Isle of Man", "Maldives", "Philippines", "Seychelles"}


@cache
def locale(language: str) -> Locale:
    """CLDR data of one of the study's languages."""
    try:
        return Locale.parse(language)
    except (UnknownLocaleError, ValueError) as error:
        raise ValueError(f"no CLDR data for the language {language!r}") from error


def _fit(name: str | None) -> str | None:
    if not name or _UNFIT_CHARACTERS & set(name) or any(word in name for word in _UNFIT_WORDS):
        return None
    return name


def _lower_first(name: str) -> str:
    """Vietnamese generic nouns ("Tiếng", "Chữ", "Giờ") are lower case inside a sentence."""
    return name[0].lower() + name[1:]


def territory(code: str, language: str) -> str | None:
    """Name of a territory as it stands inside a sentence, or None where CLDR has none that fits."""
    name = _fit(locale(language).territories.get(code))
    if name and language == "en" and (name.endswith(_ENGLISH_ARTICLE_ENDINGS) or name in _ENGLISH_ARTICLE_NAMES):
        return f"the {name}"
    return name


def human_language(code: str, language: str) -> str | None:
    """Name of a language as it stands inside a sentence."""
    name = _fit(locale(language).languages.get(code))
    if name is None or language == "en":
        return name
    if language == "zh":
        return name if name.endswith(("语", "文")) else None
    return _lower_first(name) if name.startswith("Tiếng ") else None


def script(code: str, language: str) -> str | None:
    """Name of a writing script; in English it is said as "the <name> script"."""
    name = _fit(locale(language).scripts.get(code))
    if name is None or language == "en":
        return name
    if language == "zh":
        return name if name.endswith("文") else None
    return _lower_first(name) if name.startswith("Chữ ") else None


def currency(code: str, language: str) -> str | None:
    """Name of a currency in the singular, as it stands inside a sentence."""
    if language == "en":
        return _fit(locale("en")._data["currency_names_plural"].get(code, {}).get("one"))
    name = _fit(locale(language).currencies.get(code))
    return _lower_first(name) if name and language == "vi" else name


def unit(key: str, language: str) -> str | None:
    """Name of a unit of measurement in the singular ("kilometer"), from the pattern for one of it."""
    try:
        text = format_unit(1, key, length="long", locale=language)
    except (UnknownUnitError, KeyError):
        return None
    name = text.removeprefix("1").strip().removeprefix("个")
    return _fit(name) if name and not any(character.isdigit() for character in name) else None


def quantity(kind: str, language: str) -> str | None:
    """Name of the quantity that CLDR's class of units measures, None for classes the study leaves out."""
    entry = _QUANTITIES.get(kind)
    return entry[LANGUAGES.index(language)] if entry else None


def city(zone: str, language: str) -> str | None:
    """Name of the city a time zone is called after."""
    return _fit(get_timezone_location(get_timezone(zone), locale=language, return_city=True))


def time_zone(metazone: str, language: str) -> str | None:
    """Name of the time kept in a CLDR metazone, without regard to summer time ("Central European Time")."""
    entry = locale(language).meta_zones.get(metazone)
    names = dict(entry["long"]) if entry is not None and "long" in entry else {}
    name = _fit(names.get("generic") or names.get("standard"))
    if name is None or language == "en":
        return name
    if language == "zh":
        return name if name.endswith("时间") else None
    return _lower_first(name) if name.startswith("Giờ ") else None
