"""Codes of languages as data sets write them: ``vi``, ``vie_Latn``, ``cmn_Hani``, ``zh-Hant-TW``.

A key that is no code is a name of the user's own and stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cache

from langcodes import Language, tag_is_valid
from langcodes.tag_parser import LanguageTagError

from crane_lib.errors import CraneError

_PLAIN = re.compile(r"\w[\w.-]*")  # keys become names of files
_CODE = re.compile(r"([a-z]{2,3})[_-]([a-z]{3,5})", re.IGNORECASE)  # language and script, right or misspelt


@cache
def code_of(key: str) -> Language | None:
    """The language that a key is a code of; None for a name of one's own, such as ``news``."""
    try:
        found = Language.get(key.strip().replace("_", "-"))
    except LanguageTagError:
        return None
    plain = not found.extlangs and not found.private and found.language not in (None, "und")
    return found if plain and found.is_valid() else None


@cache
def meant(language: Language) -> Language:
    """The same language with its usual code, and with the script and territory that go without saying."""
    tag = language.to_tag().replace("-Hani", "-Hans").replace("-Hang", "-Kore")  # ISO 15924 has several for one script
    return Language.get(tag).prefer_macrolanguage().maximize()


def language_key(key: str) -> str:
    """Return a key in the usual letter case, without spaces around it: ``ZHO-Hans`` becomes ``zho-Hans``.

    Raises
    ------
    CraneError : the key cannot name files, or looks like a code with a misspelt language or script
    """
    plain = key.strip()
    if not _PLAIN.fullmatch(plain):
        raise CraneError(f"language {key!r}: use letters, digits, and - _ . inside, as in vi, vie_Latn or zh-Hant")
    if code_of(plain):
        tag = Language.get(plain.replace("_", "-"), normalize=False).to_tag()  # as long as it was given
        return tag.replace("-", "_") if "_" in plain else tag
    if parts := _CODE.fullmatch(plain):
        language, script = parts[1].lower(), parts[2].title()
        if tag_is_valid(language):
            usual = str(meant(Language.get(language)).script)
            if SequenceMatcher(None, script, usual).ratio() >= 0.75:
                raise CraneError(f"language {key!r}: no script is called {script}; did you mean {language}_{usual}?")
        elif len(script) == 4 and tag_is_valid(f"und-{script}"):
            raise CraneError(f"language {key!r}: no language has the code {language}; look it up in ISO 639-3")
    return plain


def check_different(keys: Iterable[str]) -> None:
    """Refuse two keys of one language, such as ``zh`` and ``zho_Hans``.

    Raises
    ------
    CraneError : names the two
    """
    first: dict[str, str] = {}
    for key in keys:
        code = code_of(key)
        same = meant(code).to_tag() if code else key.lower()
        if same in first:
            raise CraneError(f"languages {first[same]!r} and {key!r} are the same; join their texts under one of them")
        first[same] = key
