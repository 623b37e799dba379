"""Texts whose language differs from the one claimed, found by Lingua on a few of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from langcodes import Language, tag_distance
from lingua import Language as Known
from lingua import LanguageDetector, LanguageDetectorBuilder

from crane_study.labels import language_name
from crane_study.language_codes import code_of, meant

_TEXTS, _CHARACTERS = 50, 300  # that are looked at, of each language and of each text
_NEAR = 15  # distance (CLDR) below which languages are too alike to tell apart: Malay and Indonesian have 14


@cache
def _detector() -> LanguageDetector:
    """A detector of all of Lingua's living languages; it reads the models of those whose script it meets."""
    return LanguageDetectorBuilder.from_all_spoken_languages().with_low_accuracy_mode().build()


@cache
def _alike(claimed: Language, code: str) -> bool:
    """Return whether a language of Lingua is the claimed one, or too near to it to tell."""
    usual, other = meant(claimed), meant(Language.get(code))
    if usual.language == other.language == "zh":  # in either script
        return True
    near = min(tag_distance(usual, other), tag_distance(other, usual)) < _NEAR
    return near and usual.script == other.script


def looks_like(texts: Sequence[str], language: str, *, random_seed: int = 0) -> tuple[str, int, int] | None:
    """Find the other language that most of a sample of texts seem to be in.

    Returns
    -------
    its code, the number of texts in it, and the number that was looked at; None where fewer than half are in one other
    language, or where Lingua does not know the claimed language in its script
    """
    claimed = code_of(language)
    known = [one.iso_code_639_1.name.lower() for one in Known.all()] if claimed else []
    if claimed is None or not any(_alike(claimed, code) for code in known):
        return None
    some, detector = random.Random(random_seed).sample(list(texts), min(_TEXTS, len(texts))), _detector()
    found = Counter(
        code
        for text in some
        if (seen := detector.detect_language_of(text[:_CHARACTERS])) is not None
        and not _alike(claimed, code := seen.iso_code_639_1.name.lower())
    )
    ((other, count),) = found.most_common(1) or [("", 0)]
    return (other, count, len(some)) if 2 * count > len(some) else None


def language_warnings(corpora: Mapping[str, tuple[str, Sequence[str]]]) -> list[str]:
    """One line for each language whose texts look like another one; sources and texts are given by language."""
    lines = []
    for language, (source, texts) in corpora.items():
        if found := looks_like(texts, language):
            other, count, total = found
            told = f"look like {language_name(other)}, not {language_name(language)}; is the key {language} right?"
            lines.append(f"{source}: {count} of {total} texts {told}")
    return lines
