"""In which language a text is, by script and by the characters of the study's own texts."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby

from crane_lib.errors import CraneError

_ORDER = 3  # characters of the longest pieces that are counted
_CHARACTERS = 200_000  # of a language's texts; more changes nothing
_OWN_SCRIPT = 0.02  # share of a language's letters that makes a script one of its own
_DOUBT = math.log(20)  # another language must be this much likelier (in nats) before a run of letters is that one's


@cache
def script(character: str) -> str:
    """Script of a letter by its Unicode name ("LATIN", "CJK"), empty for what is no letter."""
    if not character.isalpha():
        return ""
    return unicodedata.name(character, "OTHER ").split()[0].removesuffix("-LETTER")


def runs(text: str) -> list[tuple[str, str]]:
    """Stretches of a text in one script, each as (script, its lower-case letters and single spaces between them)."""
    found: list[tuple[str, str]] = []
    for sentence in unicodedata.normalize("NFC", text).casefold().splitlines():
        letters = [(script(character), character) for character in sentence]
        kept, last = [], ""
        for kind, character in letters:  # what stands between two letters of a script belongs to it
            last = kind or last
            kept.append((last, character if kind else " "))
        for kind, group in groupby(kept, key=lambda pair: pair[0]):
            words = "".join(character for _kind, character in group).split()
            if kind and words:
                found.append((kind, " ".join(words)))
    return found


def _pieces(run: str) -> list[str]:
    padded = f" {run} "
    return [padded[i : i + size] for size in range(1, _ORDER + 1) for i in range(len(padded) - size + 1)]


class LanguageIdentifier:
    """Whether a run of letters may be in a language, within the scripts that the language uses.

    It may be if its words are used there (names that several languages share), or else by naive Bayes over pieces of
    one to three characters.

    Parameters
    ----------
    texts : language -> texts to count characters in

    Raises
    ------
    CraneError : a language has no letters
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self._scripts: dict[str, set[str]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._words: dict[str, dict[str, float]] = {}
        for language, own in texts.items():
            stretches = runs("\n".join(own)[:_CHARACTERS])
            letters: Counter[str] = Counter()
            for kind, run in stretches:
                letters[kind] += len(run.replace(" ", ""))
            if not letters:
                raise CraneError(f"language identification: the texts in {language!r} have no letters")
            total = letters.total()
            self._scripts[language] = {kind for kind, count in letters.items() if count >= _OWN_SCRIPT * total}
            self._counts[language] = Counter(piece for _kind, run in stretches for piece in _pieces(run))
            words = Counter(word for _kind, run in stretches for word in run.split())
            self._words[language] = {word: count / words.total() for word, count in words.items()}
        self._vocabulary = len(set().union(*self._counts.values()))
        self._totals = {language: counts.total() for language, counts in self._counts.items()}

    def _log_likelihood(self, run: str, language: str) -> float:
        counts, below = self._counts[language], self._totals[language] + 0.5 * self._vocabulary
        # A character stands in up to three pieces, so the sum is shared among them.
        return sum(math.log((counts[piece] + 0.5) / below) for piece in _pieces(run)) / _ORDER

    def _uses(self, word: str, language: str) -> bool:
        own = self._words[language].get(word, 0.0)
        return own > 0 and math.log(max(used.get(word, 0.0) for used in self._words.values()) / own) <= _DOUBT

    def _may_be(self, kind: str, run: str, language: str) -> bool:
        if kind not in self._scripts[language]:
            return False
        if all(self._uses(word, language) for word in run.split()):
            return True
        rivals = [self._log_likelihood(run, other) for other, used in self._scripts.items() if kind in used]
        return self._log_likelihood(run, language) >= max(rivals) - _DOUBT

    def share(self, text: str, language: str) -> float:
        """Share of the letters of a text that are in `language`, or may be (a name that is the same in both).

        NaN for a text without letters.
        """
        own = everything = 0
        for kind, run in runs(text):
            count = len(run.replace(" ", ""))
            everything += count
            own += count if self._may_be(kind, run, language) else 0
        return own / everything if everything else math.nan
