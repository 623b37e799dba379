"""Offline judge of open answers, and the agreement of two judges.

A judge takes a frame of answers and gives each a score from 1 to 10 and a reason, or NaN if it has no score.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from crane_lib.errors import CraneError
from crane_study.measure.rows import MASK

LOWEST, HIGHEST = 1.0, 10.0
PARTS = ("facts", "language_kept", "fluency")
# Of the nine points above the lowest score; a part that cannot be judged leaves its points to the others.
POINTS = {"facts": 6.0, "language_kept": 1.5, "fluency": 1.5}

_HAN = "㐀-䶿一-鿿"
_LETTER = rf"[^\W\d_{_HAN}]"  # of a script with spaces between words
_LONGEST_PIECE = 3  # characters
_CHARACTERS = 200_000  # of the texts of a language; more changes nothing
_OWN_SCRIPT = 0.02  # share of a language's letters above which a script belongs to it
_DOUBT = math.log(20)  # another language must be this much likelier (in nats) for a run of letters to be in that one


class FactFinding(NamedTuple):
    """Result of checking a text for one fact."""

    named: bool  # the expected answer, in any language
    in_language: bool  # named in the language of the question
    others: tuple[str, ...]  # names of other answers to the same kind of question

    @property
    def value(self) -> float:
        """1 for the expected answer; half if others are named too, half if only in another language; 0 if not named."""
        return self.named * (1.0 if self.in_language else 0.5) * (0.5 if self.others else 1.0)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _pattern(name: str) -> str:
    """Regular expression of a name: whole words; a single Chinese character only by itself."""
    escaped = re.escape(name)
    if re.fullmatch(f"[{_HAN}]", name):
        return rf"(?<![{_HAN}]){escaped}(?![{_HAN}])"
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, name) else ""
    after = rf"(?!{_LETTER})" if re.match(_LETTER, name[-1]) else ""
    return before + escaped + after


class KnowledgeBase:
    """Every answer under all its names, from mappings with subject, answer_key, language and names."""

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        self._meanings: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        self._spelling: dict[str, str] = {}
        for entry in entries:
            for name in entry["names"]:
                self._spelling.setdefault(_plain(name), name)
                self._meanings[_plain(name)].add((entry["subject"], entry["answer_key"], entry["language"]))
        # The longest name at a place is the one that is meant: Central European Time, not a part of it.
        longest_first = sorted(self._meanings, key=lambda name: (-len(name), name))
        self._names = re.compile("|".join(map(_pattern, longest_first)) or r"(?!)")

    def check(self, text: str, *, subject: str, answer_key: str, language: str) -> FactFinding:
        """Check a text for the fact whose answer is `answer_key`."""
        named, in_language, others = False, False, []
        for match in self._names.finditer(_plain(text)):
            meant = {(key, spoken) for kind, key, spoken in self._meanings[match.group()] if kind == subject}
            if any(key == answer_key for key, _spoken in meant):
                named = True
                in_language = in_language or (answer_key, language) in meant
            elif meant:
                others.append(self._spelling[match.group()])
        return FactFinding(named, in_language, tuple(dict.fromkeys(others)))


@cache
def _script(character: str) -> str:
    """Script of a letter by its Unicode name ("LATIN", "CJK"); empty for other characters."""
    if not character.isalpha():
        return ""
    return unicodedata.name(character, "OTHER ").split()[0].removesuffix("-LETTER")


def script_runs(text: str) -> list[tuple[str, str]]:
    """Split a text into runs of one script: (script, its lower-case words with single spaces between them)."""
    found: list[tuple[str, str]] = []
    for line in _plain(text).splitlines():
        characters, script = [], ""
        for character in line:  # other characters belong to the script before them
            own = _script(character)
            script = own or script
            characters.append((script, character if own else " "))
        for kind, group in groupby(characters, key=lambda pair: pair[0]):
            words = "".join(character for _kind, character in group).split()
            if kind and words:
                found.append((kind, " ".join(words)))
    return found


def _letters(run: str) -> int:
    return len(run.replace(" ", ""))


def _pieces(run: str) -> list[str]:
    """All pieces of one to three characters."""
    padded = f" {run} "
    return [padded[i : i + size] for size in range(1, _LONGEST_PIECE + 1) for i in range(len(padded) - size + 1)]


class LanguageIdentifier:
    """Decide whether a run of letters may be in a language, within the scripts of the language.

    It may be if the language uses all its words (names that several languages share), or else by naive Bayes over
    pieces of one to three characters. Trained on the study's own texts: general-purpose identifiers fail on short
    answers that are names (a test shows it for lingua).
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self._scripts: dict[str, set[str]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._words: dict[str, dict[str, float]] = {}
        for language, own in texts.items():
            runs = script_runs("\n".join(own)[:_CHARACTERS])
            letters: Counter[str] = Counter()
            for script, run in runs:
                letters[script] += _letters(run)
            if not letters:
                raise CraneError(f"language identification: the texts in {language!r} have no letters")
            self._scripts[language] = {k for k, count in letters.items() if count >= _OWN_SCRIPT * letters.total()}
            self._counts[language] = Counter(piece for _script, run in runs for piece in _pieces(run))
            words = Counter(word for _script, run in runs for word in run.split())
            self._words[language] = {word: count / words.total() for word, count in words.items()}
        self._vocabulary = len(set().union(*self._counts.values()))
        self._totals = {language: counts.total() for language, counts in self._counts.items()}

    def _log_likelihood(self, run: str, language: str) -> float:
        counts, below = self._counts[language], self._totals[language] + 0.5 * self._vocabulary
        # A character is in up to three pieces, so the sum is divided by that.
        return sum(math.log((counts[piece] + 0.5) / below) for piece in _pieces(run)) / _LONGEST_PIECE

    def _uses(self, word: str, language: str) -> bool:
        own = self._words[language].get(word, 0.0)
        return own > 0 and math.log(max(used.get(word, 0.0) for used in self._words.values()) / own) <= _DOUBT

    def _may_be(self, script: str, run: str, language: str) -> bool:
        if script not in self._scripts[language]:
            return False
        if all(self._uses(word, language) for word in run.split()):
            return True
        rivals = [self._log_likelihood(run, other) for other, used in self._scripts.items() if script in used]
        return self._log_likelihood(run, language) >= max(rivals) - _DOUBT

    def share(self, text: str, language: str) -> float:
        """Share of the letters of a text that are, or may be, in `language`; NaN for a text without letters."""
        runs = script_runs(text)
        own = sum(_letters(run) for script, run in runs if self._may_be(script, run, language))
        return own / sum(_letters(run) for _script, run in runs) if runs else math.nan


def score_of_parts(parts: Mapping[str, float]) -> float:
    """Score from 1 to 10 of an answer's parts, each from 0 to 1; a NaN part leaves its points to the others."""
    known = {name: value for name, value in parts.items() if not math.isnan(value)}
    if not known:
        return math.nan
    earned = sum(POINTS[name] * value for name, value in known.items())
    return LOWEST + (HIGHEST - LOWEST) * earned / sum(POINTS[name] for name in known)


class OfflineJudge:
    """Judge facts by a knowledge base, language by the study's texts, and fluency by the unmasked model.

    The parts, each from 0 to 1:

    - facts: `FactFinding.value`; NaN for a question without expected answer
    - language_kept: share of the answer's letters that are, or may be, in the language of the question
    - fluency: the unmasked model's mean token probability of this answer, relative to that of its own answers in the
      language (at most 1): exp(their NLL per token - the answer's)

    An answer without a letter has 0 in language_kept and fluency.

    `questions` has language, question, and if known subject, answer and answer_key; `knowledge` is empty if no answers
    are known; `texts` are those of the study.
    """

    name = "offline"

    def __init__(
        self, questions: pd.DataFrame, knowledge: Sequence[Mapping[str, object]], texts: Mapping[str, Sequence[str]]
    ) -> None:
        self._questions = questions.set_index(["language", "question"])
        self._knowledge = KnowledgeBase(knowledge)
        self._identifier = LanguageIdentifier(texts)

    def score(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Score a frame of language, question (its number), answer, nll, nll_tokens and the mask's columns.

        The answers of the unmasked model, with which fluency is compared, must be among them. Returns score (1 to 10,
        NaN: missing), reason, judgings (number that the score is the mean of) and `PARTS`, in the order of `answers`.
        """
        own = answers[answers["method"] == "none"].groupby("language")[["nll", "nll_tokens"]].sum()
        absent = sorted(set(answers["language"]) - set(own.index))
        if absent:
            raise CraneError(f"offline judge: no answers of the unmasked model in {absent[0]!r}; judge them together")
        usual = (own["nll"] / own["nll_tokens"]).to_dict()
        given = answers.assign(nll=answers["nll"] / answers["nll_tokens"])[["language", "question", "answer", "nll"]]
        keys = list(given.itertuples(index=False, name=None))
        judged = {key: self._score_one(*key, usual=usual[key[0]]) for key in dict.fromkeys(keys)}
        return pd.DataFrame([judged[key] for key in keys], index=answers.index)

    def _score_one(self, language: str, question: int, answer: str, nll: float, *, usual: float) -> dict[str, object]:
        asked = self._questions.loc[(language, question)]
        facts, verdict = math.nan, "no expected answer"
        if asked["answer"]:
            subject, answer_key = asked["subject"], asked["answer_key"]
            found = self._knowledge.check(answer, subject=subject, answer_key=answer_key, language=language)
            facts = found.value
            verdict = f"{asked['answer']!r} {'named' if found.named else 'not named'}"
            verdict += " in another language" if found.named and not found.in_language else ""
            verdict += f", {'also' if found.named else 'but'} {', '.join(found.others[:3])}" if found.others else ""
        kept = self._identifier.share(answer, language)
        if math.isnan(kept):
            kept, fluency, reason = 0.0, 0.0, f"no words; {verdict}"
        else:
            fluency = min(1.0, float(np.exp(usual - nll)))
            reason = f"{verdict}; {kept:.0%} in {language}; fluency {fluency:.2f}"
        parts = {"facts": facts, "language_kept": kept, "fluency": fluency}
        return {"score": score_of_parts(parts), "reason": reason, "judgings": 1, **parts}


def agreement(items: pd.DataFrame) -> pd.DataFrame:
    """Compare two judges on the answers that both scored.

    `items` has language, judge, score and what identifies an answer (the mask's columns, question). Returns language
    (``all`` last), n, rank_correlation (Spearman; NaN if a judge's scores are all equal), mean_absolute_difference and
    within_1 (share of answers on which they differ by at most 1).
    """
    wide = items.pivot_table(index=[*MASK, "language", "question"], columns="judge", values="score", observed=True)
    if wide.shape[1] != 2:
        raise CraneError(f"judge agreement: needs two judges, found {', '.join(sorted(set(items['judge'])))}")
    wide = wide.dropna()
    rows = []
    for language in [*dict.fromkeys(items["language"]), "all"]:
        pair = wide if language == "all" else wide[wide.index.get_level_values("language") == language]
        one, other = pair.to_numpy().T
        constant = len(pair) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0
        correlation = math.nan if constant else float(spearmanr(one, other).statistic)
        difference = pd.Series(np.abs(one - other))
        rows.append((language, len(pair), correlation, difference.mean(), difference.le(1).mean()))
    columns = ["language", "n", "rank_correlation", "mean_absolute_difference", "within_1"]
    return pd.DataFrame(rows, columns=columns)
