"""Facts of Unicode CLDR in English, Chinese and Vietnamese: a thing and an answer, grouped by subject.

Every fact is stated in all three languages, so questions and documents are parallel across languages. A fact that CLDR
cannot name in one of them is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from babel import Locale
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

# Extinct, liturgical and constructed languages: CLDR gives them a territory, but nobody speaks them there.
_NOT_SPOKEN = frozenset(
    """
    ae afh akk ang arc avk chg cop cu dum egy elx enm eo frm fro gez gmh goh got grc hit ia ie io jbo jpr jrb kaw la
    lfn mga mnc non nov nwc osx ota pal peo phn pi prg pro sa sam sga sog sux syc tlh tok uga vo vot xcl zbl zxx
    """.split()  # noqa: SIM905 (a list of sixty quoted codes is harder to read)
)
_OFFICIAL = ("official", "de_facto_official")


@cache
def locale(language: str) -> Locale:
    """Return the CLDR data of a language."""
    return Locale.parse(language)


def _fit(name: str | None) -> str | None:
    if not name or _UNFIT_CHARACTERS & set(name) or any(word in name for word in _UNFIT_WORDS):
        return None
    return name


def _lower_first(name: str) -> str:
    return name[0].lower() + name[1:]


def _noun(name: str | None, language: str, *, zh: str | tuple[str, ...], vi: str) -> str | None:
    """Name of a language, script or time, or None if it lacks the Chinese ending or the Vietnamese generic noun.

    The Vietnamese noun is lower case inside a sentence.
    """
    name = _fit(name)
    if name is None or language == "en":
        return name
    if language == "zh":
        return name if name.endswith(zh) else None
    return _lower_first(name) if name.startswith(vi) else None


def territory(code: str, language: str) -> str | None:
    """Name of a territory inside a sentence, or None if CLDR has no suitable one."""
    name = _fit(locale(language).territories.get(code))
    if name and language == "en" and (name.endswith(_ENGLISH_ARTICLE_ENDINGS) or name in _ENGLISH_ARTICLE_NAMES):
        return f"the {name}"
    return name


def human_language(code: str, language: str) -> str | None:
    """Name of a language inside a sentence."""
    return _noun(locale(language).languages.get(code), language, zh=("语", "文"), vi="Tiếng ")


def script(code: str, language: str) -> str | None:
    """Name of a writing script; English sentences say "the <name> script"."""
    return _noun(locale(language).scripts.get(code), language, zh="文", vi="Chữ ")


def currency(code: str, language: str) -> str | None:
    """Name of a currency in the singular inside a sentence."""
    if language == "en":
        return _fit(locale("en")._data["currency_names_plural"].get(code, {}).get("one"))
    name = _fit(locale(language).currencies.get(code))
    return _lower_first(name) if name and language == "vi" else name


def unit(key: str, language: str) -> str | None:
    """Name of a unit of measurement in the singular ("kilometer"), from CLDR's pattern for one of it."""
    try:
        text = format_unit(1, key, length="long", locale=language)
    except (UnknownUnitError, KeyError):
        return None
    name = text.removeprefix("1").strip().removeprefix("个")
    return _fit(name) if name and not any(character.isdigit() for character in name) else None


def quantity(kind: str, language: str) -> str | None:
    """Name of the quantity that a class of units measures, or None for classes that the study leaves out."""
    entry = _QUANTITIES.get(kind)
    return entry[LANGUAGES.index(language)] if entry else None


def city(zone: str, language: str) -> str | None:
    """Name of the city that gives a time zone its name."""
    return _fit(get_timezone_location(get_timezone(zone), locale=language, return_city=True))


def time_zone(metazone: str, language: str) -> str | None:
    """Name of the time in a CLDR metazone, without regard to summer time ("Central European Time")."""
    entry = locale(language).meta_zones.get(metazone)
    names = dict(entry["long"]) if entry is not None and "long" in entry else {}
    return _noun(names.get("generic") or names.get("standard"), language, zh="时间", vi="Giờ ")


@dataclass(frozen=True)
class Fact:
    """One true statement about the world, in every language of the study."""

    key: str  # unique: ``subject/thing`` with CLDR's codes ("currency/FR")
    subject: str  # one of `SUBJECTS`
    answer_key: str  # CLDR's code of the answer; two facts with the same answer share it
    slots: dict[
        str, dict[str, str]
    ]  # language -> words of the wordings: ``s`` (the thing asked about) and ``a`` (answer)


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
            if not likely.isdigit():  # "001" is the whole world
                yield code, likely


def _city_zones() -> Iterator[tuple[str, str]]:
    """Cities of the mainlands; the names of island and polar zones are rarely those of cities."""
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


_Name = Callable[[str, str], str | None]
# Subject -> pairs of CLDR codes, names of the thing asked about and names of the answer.
_SOURCES: dict[str, tuple[Callable[[], Iterator[tuple[str, str]]], _Name, _Name]] = {
    "currency": (_currencies, territory, currency),
    "language": (_official_languages, territory, human_language),
    "script": (lambda: _likely(1), human_language, script),
    "homeland": (lambda: _likely(2), human_language, territory),
    "city": (_city_zones, city, territory),
    "clock": (_clocks, city, time_zone),
    "unit": (_units, unit, quantity),
}
SUBJECTS = tuple(_SOURCES)


def _reveals(slots: dict[str, dict[str, str]]) -> bool:
    """Return whether in some language the name of the thing contains that of the answer, or the reverse."""
    names = [(words["s"].casefold(), words["a"].casefold()) for words in slots.values()]
    return any(thing in answer or answer in thing for thing, answer in names)


def _ends_another_name(fact: Fact, others: Sequence[Fact]) -> bool:
    """Return whether in some language a longer name ends in this one (gram in kilogram: 克, 千克).

    A sentence that begins with the short name would be part of the sentence about the long one, word for word.
    """
    for language in LANGUAGES:
        name = fact.slots[language]["s"]
        tail = name if language == "zh" else f" {name}"  # Chinese has no spaces between words
        names = [other.slots[language]["s"] for other in others]
        if any(longer != name and longer.endswith(tail) for longer in names):
            return True
    return False


def collect_facts(*, per_subject: int, per_answer: int, random_seed: int) -> tuple[list[Fact], list[dict[str, Any]]]:
    """Draw the study's facts from CLDR, sorted by key, and report per subject how many are stated, unnamed and kept.

    `per_answer` limits the facts of a subject with the same answer, so that no answer dominates.
    """
    facts: list[Fact] = []
    reports = []
    for number, subject in enumerate(SUBJECTS):
        named, stated, unnamed = _named_facts(subject)
        candidates = [fact for fact in named if not _ends_another_name(fact, named)]
        taken: Counter[str] = Counter()
        kept: list[Fact] = []
        for index in np.random.default_rng([random_seed, number]).permutation(len(candidates)):
            fact = candidates[index]
            if taken[fact.answer_key] < per_answer and len(kept) < per_subject:
                taken[fact.answer_key] += 1
                kept.append(fact)
        facts += kept
        absent = {f"unnamed_{language}": unnamed[language] for language in LANGUAGES}
        reports.append({"subject": subject, "stated": stated, **absent, "kept": len(kept)})
    return sorted(facts, key=lambda fact: fact.key), reports


def _named_facts(subject: str) -> tuple[list[Fact], int, Counter[str]]:
    """Facts with a name in every language, the number that CLDR states, and the number without a name per language."""
    source, name_thing, name_answer = _SOURCES[subject]
    stated = 0
    unnamed: Counter[str] = Counter()
    facts: list[Fact] = []
    seen: set[tuple[str, str]] = set()
    for thing, answer in source():
        stated += 1
        names = {language: (name_thing(thing, language), name_answer(answer, language)) for language in LANGUAGES}
        slots = {language: {"s": s, "a": a} for language, (s, a) in names.items() if s and a}
        unnamed.update(names.keys() - slots.keys())
        if len(slots) < len(names) or _reveals(slots):
            continue
        # Two things with one name (two dialects, two zones of a city) would make a question ambiguous.
        labels = {(language, found["s"].casefold()) for language, found in slots.items()}
        if not labels & seen:
            seen |= labels
            facts.append(Fact(f"{subject}/{thing}", subject, answer, slots))
    return facts, stated, unnamed
