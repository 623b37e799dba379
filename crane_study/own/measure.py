"""Effects of neuron sets on a user's own texts, and every method at matched damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from crane_lib.ablation import ablation_effects
from crane_lib.interventions import masked
from crane_lib.methods import Method
from crane_lib.neurons import NEURON, NeuronSet
from crane_lib.nll import document_nll
from crane_lib.scores import UnitScores
from crane_lib.selection import budget_count
from crane_study.own.judge import SHARES, Judge
from crane_study.steps.masks import evaluate_masks
from crane_study.tables.matched_damage import damage_summary, damage_table
from crane_study.uncertainty.bootstrap import interval, resample_counts
from crane_study.uncertainty.matched_damage import Response

RANDOM = "random_global"
_RESAMPLES = 2000
Documents = dict[str, list[np.ndarray]]
Measure = Callable[[], pd.DataFrame]  # task, language, metric, item, value, weight: one row per question and metric


def set_effects(
    model: PreTrainedModel,
    sets: Sequence[NeuronSet],
    documents: Documents,
    *,
    token_budget: int,
    more: Sequence[Measure] = (),
) -> pd.DataFrame:
    """Measure every document and question without a mask (method ``none``) and under every set.

    Columns: method, budget, masked_language, draw, task, language, metric, item, value, weight. A metric is the sum of
    `value` divided by that of `weight`: for ``nll`` nats and tokens of a document. `more` measures other tasks.
    """

    def nll() -> pd.DataFrame:
        # Documents of all languages share batches: one pass for each of many languages would cost more than the work.
        together = [text for own in documents.values() for text in own]
        values, tokens = document_nll(model, together, token_budget=token_budget)
        places = [("texts", k, "nll", number) for k, own in documents.items() for number in range(len(own))]
        found = pd.DataFrame(places, columns=["task", "language", "metric", "item"])
        return found.assign(value=values, weight=tokens)

    def evaluate() -> pd.DataFrame:
        return pd.concat([measure() for measure in ([nll] if documents else []) + [*more]], ignore_index=True)

    masks = [("", None), *(("", item) for item in sets)]
    names = [("none", "", "", -1), *((i.method, i.budget, i.language, i.random_seed) for i in sets)]
    parts = []
    for places, frame in evaluate_masks(model, masks, evaluate, description="Effects of masks", intervene=masked):
        for place in places:
            columns = dict(zip(("method", "budget", "masked_language", "draw"), names[place], strict=True))
            parts.append((place, frame.assign(**columns)[[*columns, *frame.columns]]))
    return pd.concat([part for _place, part in sorted(parts, key=lambda one: one[0])], ignore_index=True)


def effect_table(found: pd.DataFrame) -> pd.DataFrame:
    """Rise of every metric under every set, with 95 % intervals over documents or questions."""
    keys = ["method", "budget", "masked_language", "draw", "task", "language", "metric"]
    unmasked = dict(iter(found[found["method"] == "none"].groupby(keys[4:])))
    rows = []
    for names, part in found[found["method"] != "none"].groupby(keys, sort=False):
        before = unmasked[names[4:]]
        rise, weight = part["value"].to_numpy() - before["value"].to_numpy(), before["weight"].to_numpy()
        low, high = np.full(2, np.nan)  # of one number there is no interval
        if len(rise) > 1:
            generator = np.random.default_rng(0)
            counts = np.concatenate(list(resample_counts(len(rise), _RESAMPLES, generator=generator)))
            low, high = interval((counts @ rise) / (counts @ weight))
        values = {"unmasked": before["value"].sum() / weight.sum(), "rise": rise.sum() / weight.sum()}
        rows.append(dict(zip(keys, names, strict=True)) | values | {"low": float(low), "high": float(high)})
    return pd.DataFrame(rows)


def effect_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per set of an `effect_table`: the rise in its own language, in the worst other one, and their mean."""
    keys = [name for name in table if name not in ("language", "unmasked", "rise", "low", "high")]
    own = table[table["language"] == table["masked_language"]].drop(columns=["language", "unmasked"])
    others = table[table["language"] != table["masked_language"]]
    worst = others.loc[others.groupby(keys)["rise"].idxmax(), [*keys, "language", "rise"]]
    mean = others.groupby(keys, as_index=False)["rise"].mean()
    for found, names in ((worst, {"language": "worst_other", "rise": "worst"}), (mean, {"rise": "mean_other"})):
        own = own.merge(found.rename(columns=names), on=keys, how="outer")
    return own.set_index(keys).reindex(table.set_index(keys).index.unique()).reset_index()


@dataclass(frozen=True)
class Bench:
    """Dose-responses of methods at matched damage, and of the mask of all neurons."""

    responses: list[Response]
    everything: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """One row per method, language and damage."""
        return damage_table(self.responses)

    @property
    def summary(self) -> pd.DataFrame:
        """One row per method and damage, means over languages."""
        return damage_summary(self.responses)


def bench_masks(methods: int, languages: int) -> int:
    """Most masks that `bench` evaluates."""
    return (methods + 1) * languages * len(SHARES)


def bench(judge: Judge, units: UnitScores, methods: Sequence[Method], *, advance: Callable[[int], None]) -> Bench:
    """Measure every method of neurons (or heads), and random ones, at doses of .01 to 30 % of them.

    `advance` is called with the number of masks that are done, or that were not needed.
    """
    shape = next(iter(units.neuron.values())).shape
    total = int(np.prod(shape))
    doses = list(dict.fromkeys(budget_count(share, total) for share in SHARES))
    generator = np.random.default_rng(0)
    scores = {method.name: method.scores(units) for method in methods}
    scores[RANDOM] = {language: generator.random(shape) for language in judge.languages}
    responses = []
    for name, by_language in scores.items():
        for own, language in enumerate(judge.languages):
            nll = judge.curve(by_language[language], own, doses, advance=lambda: advance(1))
            advance(len(SHARES) - len(nll) + 1)
            responses.append(judge.response(name, language, doses, nll, units=total))
    off = judge.masked(np.ones(shape, dtype=bool)) - judge.unmasked
    rise = off.sum(axis=1) / judge.tokens.sum(axis=1)
    rows = [(language, rise[own], np.delete(rise, own).max()) for own, language in enumerate(judge.languages)]
    return Bench(responses, pd.DataFrame(rows, columns=["masked_language", "damage", "worst"]))


def single_effects(
    model: PreTrainedModel,
    documents: Documents,
    neurons: np.ndarray,
    *,
    token_budget: int,
    advance: Callable[[int], None],
) -> pd.DataFrame:
    """Rise of the NLL per token in every language when one neuron alone is zeroed, with 95 % intervals over documents.

    `neurons` (L, I) marks those to ablate; `advance` is called with the number of effects that were measured.
    """
    parts = []
    for language, texts in documents.items():
        seen = 0

        def told(done: int, _total: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        found = ablation_effects(model, texts, token_budget=token_budget, neurons=neurons, progress=told)
        tokens = np.array([len(text) - 1 for text in texts])
        layer, index = np.nonzero(neurons)
        rise = found[:, layer, index]  # (documents, n)
        counts = np.concatenate(list(resample_counts(len(texts), _RESAMPLES, generator=np.random.default_rng(0))))
        low, high = interval((counts @ rise) / (counts @ tokens)[:, None])
        columns = {"layer": layer, "index": index, "effect": rise.sum(axis=0) / tokens.sum(), "low": low, "high": high}
        parts.append(pd.DataFrame({"language": language, **columns}))
    return pd.concat(parts, ignore_index=True)


def of_neurons(methods: Sequence[Method]) -> list[Method]:
    """Methods whose unit is a neuron: only their doses are numbers of silenced neurons."""
    return [method for method in methods if method.unit == NEURON]
