"""Which answers of a knowledge base a text names, and whether the expected one is among them."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_HAN = "㐀-䶿一-鿿"
_LETTER = rf"[^\W\d_{_HAN}]"  # of a script that sets spaces


@dataclass(frozen=True)
class FactFinding:
    """What a text says about one fact.

    Attributes
    ----------
    named : the expected answer is named, in any language
    in_language : it is named in the language of the question
    contradicted : another answer to the same kind of question is named, too
    others : the names of those
    """

    named: bool
    in_language: bool
    contradicted: bool
    others: tuple[str, ...]

    @property
    def value(self) -> float:
        """1 for the expected answer alone; half if contradicted, half if only in another language; 0 if not named."""
        return self.named * (1.0 if self.in_language else 0.5) * (0.5 if self.contradicted else 1.0)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _pattern(name: str) -> str:
    """A name as a regular expression: whole words; a single Chinese character only by itself."""
    escaped = re.escape(name)
    if re.fullmatch(f"[{_HAN}]", name):
        return rf"(?<![{_HAN}]){escaped}(?![{_HAN}])"
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, name) else ""
    after = rf"(?!{_LETTER})" if re.match(_LETTER, name[-1]) else ""
    return before + escaped + after


class KnowledgeBase:
    """Every answer under all its names.

    Parameters
    ----------
    entries : subject, answer_key, language and names of each
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        self._meaning: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        self._said: dict[str, str] = {}
        for entry in entries:
            for name in entry["names"]:
                self._said.setdefault(_plain(name), name)
                self._meaning[_plain(name)].add((entry["subject"], entry["answer_key"], entry["language"]))
        # The longest name at a place is the one that stands there: Central European Time, not a part of it.
        longest_first = sorted(self._meaning, key=lambda name: (-len(name), name))
        self._names = re.compile("|".join(map(_pattern, longest_first))) if longest_first else None

    def check(self, text: str, *, subject: str, answer_key: str, language: str) -> FactFinding:
        """What a text says about the fact whose answer is `answer_key`."""
        named, in_language, others = False, False, []
        for match in self._names.finditer(_plain(text)) if self._names else ():
            meant = {(key, spoken) for kind, key, spoken in self._meaning[match.group()] if kind == subject}
            keys = {key for key, _spoken in meant}
            if answer_key in keys:
                named = True
                in_language = in_language or (answer_key, language) in meant
            elif keys:
                others.append(self._said[match.group()])
        return FactFinding(named, in_language, named and bool(others), tuple(dict.fromkeys(others)))
