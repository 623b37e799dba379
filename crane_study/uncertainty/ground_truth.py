"""Methods compared with the ground truth: the measured effect of every single neuron.

An effect measured on few documents is noisy. Therefore the documents are halved at random, many times: neurons are
chosen by the first half and valued by the second half. The agreement of the two halves shows how far single effects
can be trusted at all.

Where only a random sample of the neurons was ablated, each counts by its weight, so that the same numbers are estimates
for all neurons, with 95 % ranges over resamples of the drawn neurons (`crane_study.uncertainty.neuron_sample`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from crane_lib.errors import CraneError
from crane_lib.files import atomic, hash_arrays
from crane_lib.neurons import NeuronSet
from crane_study.uncertainty.bootstrap import interval, quotient
from crane_study.uncertainty.neuron_sample import NeuronSample, rank_correlation

HALVINGS = 200
_SLOW = 50  # resamples for metrics of scikit-learn, which take milliseconds
LEAST_DOCUMENTS = 4  # per language, so that a half has two
OWN, SPECIFIC = "effect", "specific effect"
_SCHEMA = "crane.ablation/2"
_SHARES = ("share", "specific_share")


@dataclass(frozen=True)
class Effects:
    """Effect of single neurons on the NLL of every document, by language.

    `rise` (documents, L, I) is the rise of a document's NLL in nats when the neuron is set to zero, NaN where it is not
    in the `sample` (None: all are measured); `tokens` (documents,).
    """

    rise: dict[str, np.ndarray]
    tokens: dict[str, np.ndarray]
    sample: NeuronSample | None = None

    def save(self, path: Path) -> None:
        """Write a safetensors file with ``rise.<language>``, ``tokens.<language>`` and those of the sample, if any."""
        tensors = {f"rise.{language}": values for language, values in self.rise.items()}
        tensors |= {f"tokens.{language}": values for language, values in self.tokens.items()}
        tensors |= {} if self.sample is None else vars(self.sample)
        tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"sha256": hash_arrays(tensors, about=_SCHEMA)})

    @classmethod
    def load(cls, path: Path) -> Effects:
        """Read a file written by `save`; a missing or a changed one is refused."""
        if not path.is_file():
            raise CraneError(f"ground truth {path}: no such file; run section 10")
        try:
            with safe_open(path, framework="numpy") as file:
                tensors, told = {name: file.get_tensor(name) for name in sorted(file.keys())}, file.metadata() or {}
        except SafetensorError as error:
            raise CraneError(f"ground truth {path}: cannot be read ({error}); remove it and run section 10") from error
        if told.get("sha256") != hash_arrays(tensors, about=_SCHEMA):
            raise CraneError(f"ground truth {path}: was changed after it was written; remove it and run section 10")
        languages = [name.removeprefix("rise.") for name in tensors if name.startswith("rise.")]
        sample = NeuronSample(tensors["draws"], tensors["weight"]) if "draws" in tensors else None
        return cls({k: tensors[f"rise.{k}"] for k in languages}, {k: tensors[f"tokens.{k}"] for k in languages}, sample)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of layers and of neurons per layer."""
        layers, width = next(iter(self.rise.values())).shape[1:]
        return layers, width

    @cached_property
    def neurons(self) -> np.ndarray:
        """Numbers of the measured neurons, as in `NeuronSet.flat`  (n,)"""
        return np.arange(np.prod(self.shape)) if self.sample is None else self.sample.neurons

    @cached_property
    def weights(self) -> np.ndarray:
        """Number of neurons that each measured neuron stands for  (n,)"""
        return np.ones(len(self.neurons)) if self.sample is None else self.sample.weights()

    @cached_property
    def resampled(self) -> np.ndarray | None:
        """Weights in resamples of the drawn neurons  (HALVINGS, n); None if every neuron is measured"""
        return None if self.sample is None else self.sample.resampled(HALVINGS, random_seed=0)

    def per_token(self, weights: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Mean effect of the measured neurons in nats per token, by language: (n,) or (draws, n).

        Each document counts once or `weights` times, (documents,) or (draws, documents) by language.
        """
        found = {}
        for language, rise in self.rise.items():
            weight = np.ones(len(rise)) if weights is None else weights[language].astype(float)
            tokens = weight @ self.tokens[language]
            found[language] = (weight @ rise.reshape(len(rise), -1)[:, self.neurons]) / tokens[..., None]
        return found

    def has(self, item: NeuronSet) -> np.ndarray:
        """Return which of the measured neurons are in a set  (n,)"""
        return np.isin(self.neurons, item.flat())

    def estimated(self, *, resamples: int = HALVINGS, **statistics: Callable[[np.ndarray], float]) -> dict[str, float]:
        """Return functions of the weights by name; of a sample, with the limits (_low, _high) of their range."""
        found = {name: float(statistic(self.weights)) for name, statistic in statistics.items()}
        if self.resampled is not None:
            for name, statistic in statistics.items():
                found |= _limits(name, np.array([statistic(weights) for weights in self.resampled[:resamples]]))
        return found


def how_measured(effects: Effects) -> str:
    """Sentence for captions that says of which neurons the effects are."""
    total, count = int(np.prod(effects.shape)), len(effects.neurons)
    if effects.sample is None:
        return f"Every one of the {total:,} neurons was ablated."
    return (
        f"Estimated from a random sample: {count:,} of the {total:,} neurons were ablated, and each counts by the "
        "inverse of its probability. Ranges (95 %) include the error of the sampling."
    )


def specific(effects: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Effect on a language minus the largest effect on another one, per neuron."""
    return {
        language: own - np.max([effects[other] for other in effects if other != language], axis=0)
        for language, own in effects.items()
    }


@dataclass(frozen=True)
class Halves:
    """Mean effects of the measured neurons on random halves of the documents, in nats per token.

    `first` and `second`: language -> (halvings, n); `effects`: what was halved.
    """

    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]
    effects: Effects

    @property
    def resampled(self) -> np.ndarray:
        """Weights of the neurons in each halving, for ranges: resampled if the neurons are a sample  (halvings, n)"""
        effects, halvings = self.effects, len(next(iter(self.first.values())))
        if effects.resampled is None:
            return np.broadcast_to(effects.weights, (halvings, len(effects.weights)))
        return np.resize(effects.resampled, (halvings, len(effects.weights)))


def halve(effects: Effects, *, halvings: int = HALVINGS, random_seed: int = 0) -> Halves:
    """Halve the documents of every language at random, many times."""
    weights = {}
    for place, (language, tokens) in enumerate(sorted(effects.tokens.items())):
        if len(tokens) < LEAST_DOCUMENTS:
            seen = f"{len(tokens)} documents in {language!r}"
            raise CraneError(f"ground truth: {seen}; {LEAST_DOCUMENTS} are needed to halve them")
        generator = np.random.default_rng([random_seed, 104729, place])
        order = generator.permuted(np.tile(np.arange(len(tokens)), (halvings, 1)), axis=1)
        weights[language] = order < len(tokens) // 2
    rest = {language: ~chosen for language, chosen in weights.items()}
    return Halves(effects.per_token(weights), effects.per_token(rest), effects)


def reliability(effects: Effects, halves: Halves) -> pd.DataFrame:
    """Agreement (mean rank correlation with its 95 % range) of the two halves of the documents on single neurons.

    whole_agrees is the expected correlation of two samples as large as the whole one (Spearman and Brown).
    """
    records = []
    resampled = None if effects.resampled is None else halves.resampled
    for name, change in ((OWN, dict), (SPECIFIC, specific)):
        first, second = change(halves.first), change(halves.second)
        for language, tokens in ((k, effects.tokens[k]) for k in effects.rise):
            pairs = list(zip(first[language], second[language], strict=True))
            found = np.array([rank_correlation(a, b, effects.weights) for a, b in pairs])
            mean, whole = float(found.mean()), float("nan")
            if resampled is not None:
                found = np.array([rank_correlation(*pair, w) for pair, w in zip(pairs, resampled, strict=True)])
            low, high = interval(found)
            if mean > -1:
                whole = 2 * mean / (1 + mean)
            records.append((language, len(tokens), int(tokens.sum()), name, mean, float(low), float(high), whole))
    columns = ["language", "documents", "tokens", "of", "halves_agree", "low", "high", "whole_agrees"]
    return pd.DataFrame(records, columns=columns)


def _measured(effects: Effects, of: str) -> dict[str, np.ndarray]:
    """Effects or specific effects of the measured neurons, by language  (n,)"""
    return effects.per_token() if of == OWN else specific(effects.per_token())


def rank_agreement(effects: Effects, scores: Mapping[str, Mapping[str, np.ndarray]], *, of: str) -> pd.DataFrame:
    """Rank correlation of each method's scores, (L, I) by language, with the measured effects, per language.

    `of` is `OWN`, or `SPECIFIC` for scores that compare languages.
    """
    records = []
    for method, values in scores.items():
        pairs = {k: (values[k].ravel()[effects.neurons], effect) for k, effect in _measured(effects, of).items()}
        statistics: dict[str, Any] = {k: partial(rank_correlation, *pair) for k, pair in pairs.items()}
        found = effects.estimated(**statistics)
        records.append({"method": method, "of": of} | found)
    return pd.DataFrame(records)


def retrieval(
    effects: Effects, scores: Mapping[str, Mapping[str, np.ndarray]], *, of: str, share: float
) -> pd.DataFrame:
    """Rank the neurons by each method's scores and say how early those with the largest effects come.

    `scores` and `of` are those of `rank_agreement`; `share` of the neurons, those with the largest effects, count as
    relevant. Returns a frame with method, of, language, average_precision (`share` by chance), roc_auc (.5 by chance).
    """
    measured = _measured(effects, of)
    records = []
    for method, values in scores.items():
        for language in values:
            ranks = rankdata(values[language].ravel())  # scores may be infinite, which scikit-learn refuses
            given = {"effect": measured[language], "ranks": ranks[effects.neurons], "share": share}
            precision = partial(_retrieved, average_precision_score, **given)
            area = partial(_retrieved, roc_auc_score, **given)
            found = effects.estimated(resamples=_SLOW, average_precision=precision, roc_auc=area)
            records.append({"method": method, "of": of, "language": language} | found)
    return pd.DataFrame(records)


def _retrieved(
    metric: Callable[..., float], weights: np.ndarray, *, effect: np.ndarray, ranks: np.ndarray, share: float
) -> float:
    """Metric of scikit-learn of the neurons' ranks against the `share` with the largest effects, by weight."""
    order = np.argsort(-effect, kind="stable")
    before = np.cumsum(weights[order]) - weights[order] / 2
    relevant = np.zeros(len(effect), dtype=bool)
    relevant[order] = before <= max(share * weights.sum(), weights[order[0]] / 2)
    kept = weights > 0
    if len(set(relevant[kept])) < 2:
        return float("nan")
    return float(metric(relevant[kept], ranks[kept], sample_weight=weights[kept]))


def captured(halves: Halves, sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Effect of each method's sets of neurons, and its share of the effect that choosing by ablation finds.

    Choosing by ablation takes as many neurons as a set has, those with the largest effect on one half of the documents.
    Both choices are valued by the sum of their neurons' effects (nats per token) on the other half; a specific effect
    is minus the largest other language's. Shares are quotients of means over the halvings, with their 95 % range, NaN
    for a set without neurons and where choosing by ablation may find nothing (its own range reaches 0). A method may
    come out above 1, because its statistics come from other and far more documents. Random draws of one method are
    averaged. Of a sample of the neurons, `drawn` counts those of the sets, and effects have ranges, too; a set of which
    no neuron was drawn has no values.
    """
    effects, resampled = halves.effects, halves.resampled
    plain = np.broadcast_to(effects.weights, resampled.shape)
    order = {
        of: {k: np.argsort(-values, axis=1, kind="stable") for k, values in ranked.items()}
        for of, ranked in ((OWN, halves.first), (SPECIFIC, specific(halves.first)))
    }
    records = []
    for method, budget, language in dict.fromkeys((item.method, item.budget, item.language) for item in sets):
        drawn = [item for item in sets if (item.method, item.budget, item.language) == (method, budget, language)]
        members, count = [effects.has(item) for item in drawn], drawn[0].count()
        record = {"method": method, "budget": budget, "language": language, "neurons": count}
        record |= {} if effects.sample is None else {"drawn": int(np.sum(members))}
        known = np.nan if count and not np.any(members) else 1.0
        own, own_resampled = (
            known * np.mean([_valued(halves, member, language, weights) for member in members], axis=0)
            for weights in (plain, resampled)
        )  # (2, halvings)
        for of, value, range_of in zip(("effect", "specific_effect"), own, own_resampled, strict=True):
            record[of] = value.mean()
            record |= {} if effects.sample is None else _limits(of, range_of)
        for of, share, value, range_of in zip((OWN, SPECIFIC), _SHARES, own, own_resampled, strict=True):
            best, best_resampled = (
                _best(halves, order[of], count, language, of=of, weights=weights) if count else np.full(1, np.nan)
                for weights in (plain, resampled)
            )
            both = (np.array([whole.mean(), *draws]) for whole, draws in ((value, range_of), (best, best_resampled)))
            record |= dict(zip((share, f"{share}_low", f"{share}_high"), quotient(*both), strict=True))
        records.append(record)
    return pd.DataFrame(records)


def _limits(name: str, found: np.ndarray) -> dict[str, float]:
    """Limits of a range under the names of their columns."""
    low, high = interval(found)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _valued(halves: Halves, member: np.ndarray, language: str, weights: np.ndarray) -> np.ndarray:
    """Effect and specific effect of a set on the second half of every halving  (2, halvings)"""
    sums = {k: (values[:, member] * weights[:, member]).sum(axis=1) for k, values in halves.second.items()}
    return np.stack([sums[language], specific(sums)[language]])


def _best(
    halves: Halves, order: Mapping[str, np.ndarray], count: int, language: str, *, of: str, weights: np.ndarray
) -> np.ndarray:
    """Effect (or specific effect) on the second half of the neurons that the first half would choose  (halvings,)

    Neurons are taken in their order until their weights sum up to the count; of the last one a part may be taken.
    """
    chosen = order[language]
    each = np.take_along_axis(weights, chosen, axis=1)
    taken = np.clip(count - (np.cumsum(each, axis=1) - each), 0.0, each)
    sums = {k: (np.take_along_axis(v, chosen, axis=1) * taken).sum(axis=1) for k, v in halves.second.items()}
    return sums[language] if of == OWN else specific(sums)[language]


def additivity(effects: Effects, sets: Sequence[NeuronSet], documents: pd.DataFrame) -> pd.DataFrame:
    """Sum of a set's single effects, and the effect of masking it as a whole (nats per token), on the same documents.

    `documents` are rows of ``documents.parquet`` of the unmasked model and of the sets, one per method and language.
    """
    single = effects.per_token()
    mask = ["method", "budget", "masked_language"]
    totals = documents.groupby([*mask, "evaluation_language"], dropna=False)[["nll", "tokens"]].sum()
    mean = totals["nll"] / totals["tokens"]
    records = []
    for item in sets:
        key, language = (item.method, item.budget, item.language), item.language
        found: dict[str, Any] = dict(zip(("method", "budget", "language"), key, strict=True))
        found["neurons"] = item.count()
        found |= effects.estimated(sum_of_singles=partial(np.dot, single[language] * effects.has(item)))
        together = float(mean[(*key, language)] - mean["none", "", "", language])
        summed = found["sum_of_singles"]
        records.append(found | {"together": together, "ratio": together / summed if summed else float("nan")})
    return pd.DataFrame(records)


def by_layer(effects: Effects) -> pd.DataFrame:
    """Sum of the effects, and of the positive ones, per layer and language; needed: share of neurons above 0."""
    records = []
    layers, width = effects.shape
    for language, values in effects.per_token().items():
        for layer in range(layers):
            inside = effects.neurons // width == layer
            above = inside & (values > 0)
            found = effects.estimated(
                effect=partial(np.dot, values * inside),
                positive=partial(np.dot, values * above),
                needed=partial(_share, above, inside),
            )
            records.append({"layer": layer, "language": language} | found)
    return pd.DataFrame(records).sort_values(["layer", "language"], kind="stable", ignore_index=True)


def _share(part: np.ndarray, whole: np.ndarray, weights: np.ndarray) -> float:
    """Share of some neurons in others, by weight."""
    return float(weights @ part / (weights @ whole))
