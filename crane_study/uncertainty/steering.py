"""Scores of steering: language forcing, relevance, their harmonic mean, and a choice of strength that is not tuned.

After CLaS-Bench (Gurgurov et al. 2026, arXiv 2601.08331). For a way to steer and an ordered pair of languages (of the
prompts, and wanted), over N prompts: forcing F is the share of answers in the wanted language, relevance R their mean
relevance, not below 0, and the score 2 F R / (F + R). A method's score is the mean over the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_study.measure.steering import ASKED, PUSH, RIVAL
from crane_study.uncertainty.bootstrap import RESAMPLES, interval, resample_counts

HOW = ["method", "how"]
WAY_COLUMNS = [*HOW, "layer", "strength"]
_HALVES = 2


def steering_score(forcing: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Harmonic mean of forcing and relevance; 0 where either is 0, relevance below chance counts as 0."""
    relevance = np.maximum(relevance, 0.0)
    total = forcing + relevance
    return np.divide(2 * forcing * relevance, total, out=np.zeros_like(total), where=total > 0)


class Means(NamedTuple):
    """Means over prompts, arrays of one shape whose last axis are pairs of languages.

    forcing, relevance and score as above; both: mean of relevance where the answer is in the wanted language, else 0.
    """

    forcing: np.ndarray
    relevance: np.ndarray
    both: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Answered:
    """Values of W ways to steer on P ordered pairs of languages and N prompts (W, P, N), draws averaged."""

    ways: pd.DataFrame  # `WAY_COLUMNS`
    pairs: tuple[tuple[str, str], ...]  # language of the prompts, and wanted
    forced: np.ndarray
    relevance: np.ndarray
    both: np.ndarray

    @classmethod
    def read(cls, answers: pd.DataFrame) -> Answered:
        """Arrange answers.parquet of a steering stage.

        Raises
        ------
        CraneError : a way lacks answers that others have
        """
        languages = list(dict.fromkeys(answers["wanted_language"]))
        pairs = tuple((a, b) for b in languages for a in languages if a != b)
        numbers = sorted(answers["prompt"].unique())
        answers, names = answers.assign(both=answers["forced"] * answers["relevance"]), ["forced", "relevance", "both"]
        found, ways = [], []
        for way, part in answers.groupby(WAY_COLUMNS, sort=False):
            at = dict(iter(part.groupby(["prompt_language", "wanted_language"])))
            own = [at[b if way[0] == ASKED else a, b] for a, b in pairs]
            means = [one.groupby("prompt")[names].mean().reindex(numbers) for one in own]
            found.append(np.stack([one.to_numpy(float).T for one in means], axis=1))  # (3, P, N)
            ways.append(way)
        values = np.stack(found, axis=1)
        if np.isnan(values).any():
            raise CraneError("steering: not every way has an answer to every prompt; make the stage again")
        return cls(pd.DataFrame(ways, columns=WAY_COLUMNS), pairs, *values)

    @property
    def prompts(self) -> int:
        """Number of prompts N in every language."""
        return self.forced.shape[-1]

    def half(self, number: int) -> np.ndarray:
        """Mark the prompts of a half, 0 or 1: every second one  (N,)."""
        return np.arange(self.prompts) % _HALVES == number

    def counts(self, *, resamples: int = RESAMPLES, random_seed: int = 0) -> np.ndarray:
        """Number of times that each prompt is drawn, first all once, then resamples within halves  (1 + B, N)."""
        drawn = np.ones((1 + resamples, self.prompts))
        for number in range(_HALVES):
            generator, mine = np.random.default_rng([random_seed, 53, number]), self.half(number)
            blocks = resample_counts(int(mine.sum()), resamples, generator=generator)
            drawn[1:, mine] = np.concatenate(list(blocks))
        return drawn

    def means(self, counts: np.ndarray, ways: np.ndarray) -> Means:
        """Forcing and relevance of some ways, the prompts counted (B, N)  (B, W, P)."""
        total = np.maximum(counts.sum(1), 1)[:, None, None]
        values = self.forced, self.relevance, self.both
        forced, relevance, both = (np.einsum("bn,wpn->bwp", counts, x[ways]) / total for x in values)
        return Means(forced, relevance, both, steering_score(forced, relevance))

    def chosen(self, counts: np.ndarray, ways: np.ndarray) -> Means:
        """Means of both halves, each at the strength and layer that score best on the other  (B, P).

        Every wanted language has its own choice, made again in every resample. The score is the mean of the halves'
        scores: that of their joint answers would profit from one half being weakly, the other strongly steered.
        """
        wanted = np.array([pair[1] for pair in self.pairs])
        sums = [np.zeros((len(counts), len(wanted))) for _ in Means._fields]
        for number in range(_HALVES):
            own, other = (counts * self.half(side) for side in (number, 1 - number))
            score, here = self.means(other, ways).score, self.means(own, ways)
            for language in dict.fromkeys(wanted):
                (places,) = np.nonzero(wanted == language)
                best = score[:, :, places].mean(2).argmax(1)  # (B,), the first of equal ones
                for into, values in zip(sums, here, strict=True):
                    into[:, places] += values[np.arange(len(best)), best][:, places] / _HALVES
        return Means(*sums)


def _summary(means: Means) -> dict[str, float]:
    """Means over the pairs as measured, and 95 % intervals of two over the resamples behind them."""
    over = {name: values.mean(-1) for name, values in means._asdict().items()}
    ends = {name: interval(over[name][1:]) for name in ("both", "score")}
    found = {name: float(values[0]) for name, values in over.items()}
    for name, (low, high) in ends.items():
        found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def strengths(found: Answered, *, random_seed: int = 0) -> pd.DataFrame:
    """Forcing, relevance and score of every way at every strength, means over the pairs; interval over prompts."""
    means = found.means(found.counts(random_seed=random_seed), np.arange(len(found.ways)))
    rows = [_summary(Means(*(x[:, way] for x in means))) for way in range(len(found.ways))]
    return pd.concat([found.ways, pd.DataFrame(rows)], axis=1)


def _by_method(found: Answered) -> dict[tuple[str, str], np.ndarray]:
    """Places of the ways of every method and how it steers."""
    return {key: np.asarray(places) for key, places in found.ways.groupby(HOW, sort=False).indices.items()}


def compared(found: Answered, *, random_seed: int = 0) -> pd.DataFrame:
    """Forcing, relevance and score of every method at strengths chosen on other prompts, and its lead over the rival.

    `lead` is the difference to the difference of means, on the same resamples; `ways` strengths and layers were tried.
    """
    counts = found.counts(random_seed=random_seed)
    ways = _by_method(found)
    means = {key: found.chosen(counts, places) for key, places in ways.items()}
    rival, rows = means[RIVAL, PUSH].score.mean(-1), []
    for key, own in means.items():
        lead = own.score.mean(-1) - rival
        low, high = interval(lead[1:])
        values = {"lead": lead[0], "lead_low": float(low), "lead_high": float(high)}
        rows.append({**dict(zip(HOW, key, strict=True)), **_summary(own), **values, "ways": len(ways[key])})
    return pd.DataFrame(rows)


def by_pair(found: Answered) -> pd.DataFrame:
    """Forcing, relevance and score of every method on every ordered pair, at strengths chosen on other prompts."""
    rows = []
    for key, places in _by_method(found).items():
        means = found.chosen(np.ones((1, found.prompts)), places)
        for place, pair in enumerate(found.pairs):
            rows.append((*key, *pair, *(values[0, place] for values in means)))
    return pd.DataFrame(rows, columns=[*HOW, "prompt_language", "wanted_language", *Means._fields])
