"""Facts of Unicode CLDR in English, Chinese and Vietnamese: subject and answer, by school subject.

Every fact holds in all three languages, so that questions and documents of the languages are parallel. A fact that
CLDR cannot name in one of them is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from babel import Locale, UnknownLocaleError
from babel.core import get_global
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


# Extinct, liturgical and constructed languages: CLDR gives them a territory, but no one could be said to live there
# and speak them.
_NOT_SPOKEN = frozenset(
    """
    ae afh akk ang arc avk chg cop cu dum egy elx enm eo frm fro gez gmh goh got grc hit ia ie io jbo jpr jrb kaw la
    lfn mga mnc non nov nwc osx ota pal peo phn pi prg pro sa sam sga sog sux syc tlh tok uga vo vot xcl zbl zxx
    """.split()  # noqa: SIM905 (a list of sixty quoted codes reads worse)
)
_OFFICIAL = ("official", "de_facto_official")
SUBJECTS = ("currency", "language", "script", "homeland", "city", "clock", "unit")


@dataclass(frozen=True)
class Fact:
    """One true statement about the world, in every language of the study.

    Attributes
    ----------
    key : unique name, ``subject/thing`` with CLDR's codes ("currency/FR")
    subject : one of `SUBJECTS`
    answer_key : CLDR's code of the answer; two facts with the same answer share it
    slots : per language the words for the wordings: ``s`` (the thing asked about) and ``a`` (answer)
    """

    key: str
    subject: str
    answer_key: str
    slots: dict[str, dict[str, str]]


@dataclass(frozen=True)
class FactReport:
    """How many facts of a subject CLDR states, how many can be named, and how many were kept."""

    subject: str
    stated: int
    unnamed: dict[str, int]
    kept: int


def _currencies() -> Iterator[tuple[str, str]]:
    for code, history in get_global("territory_currencies").items():
        current = [currency for currency, _start, end, tender in history if end is None and tender]
        if len(current) == 1:
            yield code, current[0]


def _official_languages() -> Iterator[tuple[str, str]]:
    for code, spoken in get_global("territory_languages").items():
        official = [name for name, info in spoken.items() if info["official_status"] in _OFFICIAL]
        if len(official) == 1:
            yield code, official[0]


def _likely(part: int) -> Iterator[tuple[str, str]]:
    for code, full in get_global("likely_subtags").items():
        if "_" not in code and code != "und" and code not in _NOT_SPOKEN:
            likely = full.split("_")[part]
            if not likely.isdigit():  # "001" stands for the whole world
                yield code, likely


def _city_zones() -> Iterator[tuple[str, str]]:
    """Cities of the mainlands; the names of island and polar zones are seldom those of cities."""
    for zone, territory in get_global("zone_territories").items():
        area, _, rest = zone.partition("/")
        if area in {"Africa", "America", "Asia", "Australia", "Europe"} and "/" not in rest:
            yield zone, territory


def _clocks() -> Iterator[tuple[str, str]]:
    metazones = get_global("meta_zones")
    for zone, _territory in _city_zones():
        if zone in metazones:
            yield zone, metazones[zone]


def _units() -> Iterator[tuple[str, str]]:
    for key in locale("en")._data["unit_display_names"]:
        kind = key.split("-")[0]
        if quantity(kind, "en") is not None:
            yield key, kind


_SOURCES = {
    "currency": (_currencies, territory, currency),
    "language": (_official_languages, territory, human_language),
    "script": (lambda: _likely(1), human_language, script),
    "homeland": (lambda: _likely(2), human_language, territory),
    "city": (_city_zones, city, territory),
    "clock": (_clocks, city, time_zone),
    "unit": (_units, unit, quantity),
}


def _words(subject: str, thing: str, answer: str, language: str) -> dict[str, str] | None:
    """Words of one fact in a language, None where CLDR lacks one."""
    _source, name_thing, name_answer = _SOURCES[subject]
    thing_name, answer_name = name_thing(thing, language), name_answer(answer, language)
    return {"s": thing_name, "a": answer_name} if thing_name and answer_name else None


def _reveals(slots: dict[str, dict[str, str]]) -> bool:
    """Whether the subject's name contains the answer's, or the other way round, in some language."""
    return any(
        words["s"].casefold() in words["a"].casefold() or words["a"].casefold() in words["s"].casefold()
        for words in slots.values()
    )


def _ends_another_name(fact: Fact, others: Sequence[Fact]) -> bool:
    """Whether a longer name ends in this fact's, in some language (gram in kilogram: 克, 千克).

    A sentence that begins with the short name would stand word for word within the sentence about the long one.
    """

    def tail(language: str) -> str:
        name = fact.slots[language]["s"]
        return name if language == "zh" else f" {name}"  # Chinese sets no space between words

    return any(
        len(other.slots[language]["s"]) > len(fact.slots[language]["s"])
        and other.slots[language]["s"].endswith(tail(language))
        for language in LANGUAGES
        for other in others
    )


def collect_facts(*, per_subject: int, per_answer: int, random_seed: int) -> tuple[list[Fact], list[FactReport]]:
    """Draw the study's facts from CLDR.

    Parameters
    ----------
    per_subject : at most so many facts of a subject
    per_answer : at most so many facts of a subject share an answer, so that no answer dominates
    random_seed : seed of the draw

    Returns
    -------
    facts, sorted by key, and a report a subject
    """
    facts: list[Fact] = []
    reports = []
    for number, subject in enumerate(SUBJECTS):
        source = _SOURCES[subject][0]
        stated = 0
        unnamed: Counter[str] = Counter()
        stated_facts: list[Fact] = []
        seen: set[tuple[str, str]] = set()
        for thing, answer in source():
            stated += 1
            slots = {language: _words(subject, thing, answer, language) for language in LANGUAGES}
            named = {language: words for language, words in slots.items() if words is not None}
            unnamed.update(slots.keys() - named.keys())
            if len(named) < len(slots) or _reveals(named):
                continue
            # Two things of one name (two dialects, two zones of a city) would make a question ambiguous.
            labels = {(language, words["s"].casefold()) for language, words in named.items()}
            if labels & seen:
                continue
            seen |= labels
            stated_facts.append(Fact(f"{subject}/{thing}", subject, answer, named))
        candidates = [fact for fact in stated_facts if not _ends_another_name(fact, stated_facts)]
        generator = np.random.default_rng([random_seed, number])
        taken: Counter[str] = Counter()
        kept: list[Fact] = []
        for index in generator.permutation(len(candidates)):
            fact = candidates[index]
            if taken[fact.answer_key] < per_answer and len(kept) < per_subject:
                taken[fact.answer_key] += 1
                kept.append(fact)
        facts += kept
        reports.append(FactReport(subject, stated, dict(unnamed), len(kept)))
    return sorted(facts, key=lambda fact: fact.key), reports
