"""Judges of open answers: what they share, the offline judge, and how far two judges agree.

A judge takes a frame of answers and gives each a score from 1 to 10 and a reason, or NaN where it has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from crane_lib.errors import CraneError
from crane_lib.evaluation.judges_facts import KnowledgeBase
from crane_lib.evaluation.judges_language import LanguageIdentifier

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

    - facts: `crane_lib.evaluation.judges_facts.FactFinding.value`; NaN for a question without expected answer
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
