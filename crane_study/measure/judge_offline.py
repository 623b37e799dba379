"""Judges of open answers: what they share, the offline judge, and how far two judges agree.

A judge takes a frame of answers and gives each a score from 1 to 10 and a reason, or NaN where it has none.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from crane_lib.errors import CraneError

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


LOWEST, HIGHEST = 1.0, 10.0
PARTS = ("facts", "language_kept", "fluency")
# Of the nine points above the lowest score; a part that cannot be judged leaves its points to the others.
POINTS = {"facts": 6.0, "language_kept": 1.5, "fluency": 1.5}
MASK = ["selected_on", "method", "budget", "masked_language", "random_seed"]


class Judge(Protocol):
    """Something that scores answers.

    Attributes
    ----------
    name : ``offline`` or ``endpoint``
    """

    name: str

    def score(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Score answers.

        Parameters
        ----------
        answers : language, question (its number), text (its words), answer, nll, nll_tokens, and the mask's columns

        Returns
        -------
        frame in the order of `answers`: score (1 to 10, NaN: missing), reason, judgings (how many the score is the
        mean of), and `PARTS` (NaN where the judge has no such parts)
        """
        ...


def score_of_parts(parts: Mapping[str, float]) -> float:
    """Score from 1 to 10 of an answer's parts, each from 0 to 1; a NaN part leaves its points to the others."""
    known = {name: value for name, value in parts.items() if not np.isnan(value)}
    if not known:
        return float("nan")
    earned = sum(POINTS[name] * value for name, value in known.items())
    return LOWEST + (HIGHEST - LOWEST) * earned / sum(POINTS[name] for name in known)


class OfflineJudge:
    """Facts against a knowledge base, language by the study's texts, fluency by the unmasked model.

    The parts, each from 0 to 1:

    - facts: `crane_study.measure.judge_offline.FactFinding.value`; NaN for a question without expected answer
    - language_kept: share of the answer's letters that are, or may be, in the language of the question
    - fluency: the unmasked model's probability a token of this answer, relative to that of its own answers in the
      language (at most 1): exp(their NLL a token - the answer's)

    An answer without a letter has 0 in language_kept and fluency.

    Parameters
    ----------
    questions : language, question, and where they are known subject, answer and answer_key
    knowledge : entries of every known answer; none for questions without expected answers
    texts : language -> texts of the study
    """

    name = "offline"

    def __init__(
        self,
        questions: pd.DataFrame,
        knowledge: Sequence[Mapping[str, object]],
        texts: Mapping[str, Sequence[str]],
    ) -> None:
        self._questions = questions.set_index(["language", "question"])
        self._knowledge = KnowledgeBase(knowledge)
        self._identifier = LanguageIdentifier(texts)

    def score(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Score answers; the unmasked ones must be among them, for fluency is measured against theirs.

        Raises
        ------
        CraneError : there is no unmasked answer in a language
        """
        own = answers[answers["method"] == "none"].groupby("language")[["nll", "nll_tokens"]].sum()
        absent = sorted(set(answers["language"]) - set(own.index))
        if absent:
            raise CraneError(f"offline judge: no answers of the unmasked model in {absent[0]!r}; judge them together")
        usual = (own["nll"] / own["nll_tokens"]).to_dict()
        judged: dict[tuple[str, int, str, float], dict[str, object]] = {}
        rows = []
        for row in answers.itertuples():
            key = (row.language, row.question, row.answer, row.nll / row.nll_tokens)
            if key not in judged:
                judged[key] = self._one(*key, usual=usual[row.language])
            rows.append(judged[key])
        return pd.DataFrame(rows, index=answers.index)

    def _one(self, language: str, question: int, answer: str, nll: float, *, usual: float) -> dict[str, object]:
        asked = self._questions.loc[(language, question)]
        facts, says = float("nan"), "no expected answer"
        if asked["answer"]:
            found = self._knowledge.check(
                answer, subject=asked["subject"], answer_key=asked["answer_key"], language=language
            )
            facts = found.value
            says = f"{asked['answer']!r} {'named' if found.named else 'not named'}"
            says += " in another language" if found.named and not found.in_language else ""
            says += f", {'also' if found.named else 'but'} {', '.join(found.others[:3])}" if found.others else ""
        kept = self._identifier.share(answer, language)
        fluency = 0.0 if np.isnan(kept) else min(1.0, float(np.exp(usual - nll)))
        parts = {"facts": facts, "language_kept": float(np.nan_to_num(kept)), "fluency": fluency}
        reason = f"{says}; {parts['language_kept']:.0%} in {language}; fluency {fluency:.2f}"
        reason = "no words; " + says if np.isnan(kept) else reason
        return {"score": score_of_parts(parts), "reason": reason, "judgings": 1, **parts}


def agreement(items: pd.DataFrame) -> pd.DataFrame:
    """How far two judges agree on the answers that both scored.

    Parameters
    ----------
    items : language, judge, score and what identifies an answer (`MASK`, question)

    Returns
    -------
    frame with language (``all`` last), n, rank_correlation (Spearman; NaN where a judge's scores are all the same),
    mean_absolute_difference and within_1 (share of answers on which they differ by at most 1)

    Raises
    ------
    CraneError : the answers were not scored by exactly two judges
    """
    wide = items.pivot_table(index=[*MASK, "language", "question"], columns="judge", values="score", observed=True)
    if wide.shape[1] != 2:
        raise CraneError(f"judge agreement: needs two judges, saw {', '.join(sorted(set(items['judge'])))}")
    wide = wide.dropna()
    languages = list(dict.fromkeys(items["language"]))
    records = []
    for language in [*languages, "all"]:
        pair = wide if language == "all" else wide[wide.index.get_level_values("language") == language]
        one, other = pair.to_numpy().T
        constant = len(pair) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0
        apart = np.abs(one - other)
        records.append(
            {
                "language": language,
                "n": len(pair),
                "rank_correlation": float("nan") if constant else float(spearmanr(one, other).statistic),
                "mean_absolute_difference": float(apart.mean()) if len(pair) else float("nan"),
                "within_1": float((apart <= 1).mean()) if len(pair) else float("nan"),
            }
        )
    return pd.DataFrame(records)
