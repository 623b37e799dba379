"""Random samples of neurons, with weights that estimate sums over all neurons.

Neurons are drawn layer by layer, with replacement and unequal probabilities. A draw counts by the inverse of its
neuron's expected number of draws, so that weighted sums are unbiased (Hansen and Hurwitz, 1943). A neuron that would be
expected once or more often is always taken and counts once. The sampling error comes from resampling the draws of each
layer (Rao, Wu and Yue, 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from crane_lib.files import atomic
from crane_lib.neurons import NeuronSet
from crane_lib.scores import UnitScores

SAMPLE_FILE = "sample.safetensors"
_LEAST_DRAWS = 2  # of a layer, so that they have a variance


@dataclass(frozen=True)
class NeuronSample:
    """Number of times that each neuron was drawn, and what one draw of it counts  (L, I) each; 1: always taken."""

    draws: np.ndarray
    weight: np.ndarray

    @property
    def neurons(self) -> np.ndarray:
        """Numbers of the sampled neurons, as in `NeuronSet.flat`  (n,)"""
        return np.flatnonzero(self.draws)

    def weights(self) -> np.ndarray:
        """Number of neurons that each sampled neuron stands for  (n,)"""
        found: np.ndarray = (self.draws * self.weight).ravel()[self.neurons]
        return found

    def resampled(self, resamples: int, *, random_seed: int) -> np.ndarray:
        """Weights of the sampled neurons when the draws of each layer are drawn again  (resamples, n)"""
        generator = np.random.default_rng([random_seed, 7907])
        found = np.broadcast_to(self.draws * self.weight, (resamples, *self.draws.shape)).copy()
        for layer, (draws, weight) in enumerate(zip(self.draws, self.weight, strict=True)):
            drawn = np.flatnonzero((draws > 0) & (weight != 1))
            if len(drawn):
                count = int(draws[drawn].sum())
                again = generator.multinomial(count - 1, draws[drawn] / count, size=resamples)
                found[:, layer, drawn] = again * weight[drawn] * count / (count - 1)
        return found.reshape(resamples, -1)[:, self.neurons]

    def by_layer(self) -> pd.DataFrame:
        """Neurons of each layer: all, measured, always taken, and the largest number that one stands for."""
        taken = self.draws > 0
        columns = {
            "neurons": np.full(len(taken), taken.shape[1]),
            "measured": taken.sum(axis=1),
            "always": (taken & (self.weight == 1)).sum(axis=1),
            "largest_weight": np.where(taken, self.draws * self.weight, 0.0).max(axis=1),
        }
        return pd.DataFrame(columns).rename_axis("layer").reset_index()

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        with atomic(path) as temporary:
            save_file({"draws": self.draws, "weight": self.weight}, temporary)

    @classmethod
    def load(cls, path: Path) -> NeuronSample:
        """Read a file written by `save`."""
        return cls(**load_file(path))


def sampling_sizes(scores: UnitScores, sets: Sequence[NeuronSet]) -> np.ndarray:
    """Sizes (L, I) to which the probabilities of a draw are proportional; their sum is 1.

    A third is equal for all neurons, a third follows the mean absolute relevance (mean of the languages' shares), and
    a third lies on the sets, the same on every set.
    """
    first = next(iter(scores.absolute.values()))
    relevance = [values / values.sum() for values in scores.absolute.values() if values.any()]
    members = [np.isin(np.arange(first.size), item.flat()).reshape(first.shape) for item in sets if item.count()]
    parts = [np.full(first.shape, 1 / first.size)]
    parts += [np.mean(found, axis=0) for found in (relevance, [item / item.sum() for item in members]) if found]
    sizes: np.ndarray = np.mean(parts, axis=0)
    return sizes


def draw_neurons(sizes: np.ndarray, count: int, *, random_seed: int) -> NeuronSample:
    """Draw about `count` neurons with probabilities proportional to positive sizes  (L, I)."""
    generator = np.random.default_rng([random_seed, 7901])
    draws, weight = np.zeros(sizes.shape, dtype=np.int64), np.ones(sizes.shape)
    shares = np.rint(count * sizes.sum(axis=1) / sizes.sum()).astype(int)
    for layer, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        always = np.zeros(size.shape, dtype=bool)
        while not always.all():
            left = max(_LEAST_DRAWS, share - int(always.sum()))
            rest = np.where(always, 0.0, size)
            expected = left * rest / rest.sum()
            if (expected < 1).all():
                draws[layer] = generator.multinomial(left, expected / left)
                weight[layer] = 1 / np.where(always, 1.0, expected)
                break
            always |= expected >= 1
        draws[layer][always] = 1
    return NeuronSample(draws, weight)


def weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ranks of values that each count `weights` times, with the mean rank for ties  (n,)"""
    _unique, place = np.unique(values, return_inverse=True)
    total = np.bincount(place, weights)
    ranks: np.ndarray = (np.cumsum(total) - total / 2)[place]
    return ranks


def rank_correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """Rank correlation of two scores of units that each count `weights` times."""
    x, y = (
        ranks - np.average(ranks, weights=weights) for ranks in (weighted_ranks(a, weights), weighted_ranks(b, weights))
    )
    return float((weights * x * y).sum() / np.sqrt((weights * x * x).sum() * (weights * y * y).sum()))
