"""Methods compared with the ground truth: the measured effect of every single neuron.

An effect measured on few documents is noisy. Therefore the documents are halved at random, many times: neurons are
chosen by the first half and valued by the second half. The agreement of the two halves shows how far single effects
can be trusted at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from crane_lib.errors import CraneError
from crane_lib.files import atomic
from crane_lib.neurons import NeuronSet
from crane_study.uncertainty.bootstrap import interval

HALVINGS = 200
LEAST_DOCUMENTS = 4  # per language, so that a half has two
OWN, SPECIFIC = "effect", "specific effect"


@dataclass(frozen=True)
class Effects:
    """Effect of every single neuron on the NLL of every document, by language.

    `rise` (documents, L, I) is the rise of a document's NLL in nats when the neuron is set to zero; `tokens`
    (documents,).
    """

    rise: dict[str, np.ndarray]
    tokens: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write a safetensors file with ``rise.<language>`` and ``tokens.<language>``."""
        tensors = {f"rise.{language}": values for language, values in self.rise.items()}
        tensors |= {f"tokens.{language}": values for language, values in self.tokens.items()}
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"schema": "crane.ablation/1"})

    @classmethod
    def load(cls, path: Path) -> Effects:
        """Read a file written by `save`."""
        if not path.is_file():
            raise CraneError(f"ground truth {path}: no such file; run section 10")
        tensors = load_file(path)
        languages = [name.removeprefix("rise.") for name in tensors if name.startswith("rise.")]
        return cls({k: tensors[f"rise.{k}"] for k in languages}, {k: tensors[f"tokens.{k}"] for k in languages})

    def per_token(self, weights: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Mean effect of every neuron in nats per token, by language: (N,) or (draws, N), as in `NeuronSet.flat`.

        Each document counts once or `weights` times, (documents,) or (draws, documents) by language.
        """
        found = {}
        for language, rise in self.rise.items():
            weight = np.ones(len(rise)) if weights is None else weights[language].astype(float)
            tokens = weight @ self.tokens[language]
            found[language] = (weight @ rise.reshape(len(rise), -1)) / tokens[..., None]
        return found


def specific(effects: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Effect on a language minus the largest effect on another one, per neuron."""
    return {
        language: own - np.max([effects[other] for other in effects if other != language], axis=0)
        for language, own in effects.items()
    }


@dataclass(frozen=True)
class Halves:
    """Mean effects of every neuron on random halves of the documents: language -> (halvings, N) in nats per token."""

    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]


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
    return Halves(effects.per_token(weights), effects.per_token(rest))


def reliability(effects: Effects, halves: Halves) -> pd.DataFrame:
    """Agreement (mean rank correlation with its 95 % range) of the two halves of the documents on single neurons.

    whole_agrees is the expected correlation of two samples as large as the whole one (Spearman and Brown).
    """
    records = []
    for name, pairs in ((OWN, halves), (SPECIFIC, Halves(specific(halves.first), specific(halves.second)))):
        for language, tokens in ((k, effects.tokens[k]) for k in effects.rise):
            found = _row_correlations(pairs.first[language], pairs.second[language])
            low, high = interval(found)
            mean = float(found.mean())
            whole = 2 * mean / (1 + mean) if mean > -1 else float("nan")
            records.append((language, len(tokens), int(tokens.sum()), name, mean, float(low), float(high), whole))
    columns = ["language", "documents", "tokens", "of", "halves_agree", "low", "high", "whole_agrees"]
    return pd.DataFrame(records, columns=columns)


def _row_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of one array with the same row of the other  (rows,)"""
    x, y = (rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (a, b))
    return (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))


def rank_agreement(effects: Effects, scores: Mapping[str, Mapping[str, np.ndarray]], *, of: str) -> pd.DataFrame:
    """Rank correlation of each method's scores, (L, I) by language, with the measured effects, per language.

    `of` is `OWN`, or `SPECIFIC` for scores that compare languages.
    """
    measured = effects.per_token() if of == OWN else specific(effects.per_token())
    records = [
        {"method": method, "of": of}
        | {language: float(spearmanr(values[language].ravel(), measured[language])[0]) for language in measured}
        for method, values in scores.items()
    ]
    return pd.DataFrame(records, columns=["method", "of", *measured])


def retrieval(
    effects: Effects, scores: Mapping[str, Mapping[str, np.ndarray]], *, of: str, share: float
) -> pd.DataFrame:
    """Rank the neurons by each method's scores and say how early those with the largest effects come.

    `scores` and `of` are those of `rank_agreement`; `share` of the neurons, those with the largest effects, count as
    relevant. Returns a frame with method, of, language, average_precision (`share` by chance), roc_auc (.5 by chance).
    """
    measured = effects.per_token() if of == OWN else specific(effects.per_token())
    records = []
    for method, values in scores.items():
        for language in values:
            effect = measured[language]
            relevant = effect >= np.sort(effect)[-max(1, round(share * effect.size))]
            ranks = rankdata(values[language].ravel())  # scores may be infinite, which scikit-learn refuses
            precision, area = average_precision_score(relevant, ranks), roc_auc_score(relevant, ranks)
            records.append((method, of, language, float(precision), float(area)))
    return pd.DataFrame(records, columns=["method", "of", "language", "average_precision", "roc_auc"])


def captured(halves: Halves, sets: Sequence[NeuronSet]) -> pd.DataFrame:
    """Effect of each method's sets of neurons, and its share of the effect that choosing by ablation finds.

    Choosing by ablation takes as many neurons as a set has, those with the largest effect on one half of the documents.
    Both choices are valued by the sum of their neurons' effects (nats per token) on the other half; a specific effect
    is minus the largest other language's. Shares are quotients of means over the halvings, with their 95 % range, NaN
    for a set without neurons. A method may come out above 1, because its statistics come from other and far more
    documents. Random draws of one method are averaged.
    """
    records = []
    for method, budget, language in dict.fromkeys((item.method, item.budget, item.language) for item in sets):
        drawn = [item for item in sets if (item.method, item.budget, item.language) == (method, budget, language)]
        found = np.mean([_valued(halves, item.flat(), language) for item in drawn], axis=0)  # (2, halvings)
        count = drawn[0].count()
        record = {"method": method, "budget": budget, "language": language, "neurons": count}
        record |= {"effect": found[0].mean(), "specific_effect": found[1].mean()}
        for name, of, own in zip(("share", "specific_share"), (OWN, SPECIFIC), found, strict=True):
            best = _best(halves, count, language, of=of).mean() if count else np.nan
            low, high = interval(own / best)
            record |= {name: own.mean() / best, f"{name}_low": float(low), f"{name}_high": float(high)}
        records.append(record)
    return pd.DataFrame(records)


def _valued(halves: Halves, neurons: np.ndarray, language: str) -> np.ndarray:
    """Effect and specific effect of a set on the second half of every halving  (2, halvings)"""
    sums = {k: values[:, neurons].sum(axis=1) for k, values in halves.second.items()}
    return np.stack([sums[language], specific(sums)[language]])


def _best(halves: Halves, count: int, language: str, *, of: str) -> np.ndarray:
    """Effect (or specific effect) on the second half of the neurons that the first half would choose  (halvings,)"""
    ranked = (halves.first if of == OWN else specific(halves.first))[language]
    chosen = np.argpartition(-ranked, count - 1, axis=1)[:, :count]
    sums = {k: np.take_along_axis(values, chosen, axis=1).sum(axis=1) for k, values in halves.second.items()}
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
        summed = float(single[language][item.flat()].sum())
        together = float(mean[(*key, language)] - mean["none", "", "", language])
        records.append((*key, item.count(), summed, together, together / summed if summed else float("nan")))
    columns = ["method", "budget", "language", "neurons", "sum_of_singles", "together", "ratio"]
    return pd.DataFrame(records, columns=columns)


def by_layer(effects: Effects) -> pd.DataFrame:
    """Sum of the effects, and of the positive ones, per layer and language; needed: share of neurons above 0."""
    records = []
    for language, values in effects.per_token().items():
        layers = values.reshape(effects.rise[language].shape[1:])  # (L, I)
        for number, layer in enumerate(layers):
            records.append((number, language, layer.sum(), layer[layer > 0].sum(), (layer > 0).mean()))
    table = pd.DataFrame(records, columns=["layer", "language", "effect", "positive", "needed"])
    return table.sort_values(["layer", "language"], kind="stable", ignore_index=True)
