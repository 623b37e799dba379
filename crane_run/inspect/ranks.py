"""Values of one neuron in every language, its rank under every method, and the cost of masking it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.methods import neuron_scores
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.relevance import parts_of
from crane_lib.scores import unit_means
from crane_lib.selection import Scores
from crane_run.inspect.run import FinishedRun
from crane_study.data.corpora import token_ids
from crane_study.measure.rows import mask_labels
from crane_study.uncertainty.bootstrap import resample_documents
from crane_study.uncertainty.intervals import drop_intervals

ROW_METHODS = {"kurtosis_gate": "gate", "kurtosis_up": "up"}  # of the neuron's own two rows


@dataclass(frozen=True)
class Neuron:
    """A neuron of a model of a run: `index` of the MLP's hidden activation in `layer`."""

    model: str
    layer: int
    index: int

    @property
    def place(self) -> tuple[int, int]:
        """Layer and index."""
        return self.layer, self.index


def check_neuron(run: FinishedRun, neuron: Neuron) -> None:
    """Raise a CraneError if no model of the run has this neuron."""
    run.check(model=neuron.model)
    layers, width = run.statistics(neuron.model)[run.languages[0]].moments["neuron"].shape
    if not 0 <= neuron.layer < layers:
        raise CraneError(f"layer {neuron.layer}: the {neuron.model} model has the layers 0 to {layers - 1}")
    if not 0 <= neuron.index < width:
        raise CraneError(f"neuron {neuron.index}: a layer of the {neuron.model} model has the neurons 0 to {width - 1}")


def method_scores(run: FinishedRun, model: str) -> dict[str, Scores]:
    """Scores by which each method ranks neurons.  method -> language -> (L, I)"""
    return neuron_scores(run.unit_scores(model))


def _order(scores: np.ndarray) -> np.ndarray:
    """Places from the largest score to the smallest; for ties the lower place first, NaN at the end."""
    return np.argsort(-np.where(np.isnan(scores), -np.inf, scores).ravel(), kind="stable")


def _rank(everything: np.ndarray, place: int) -> int:
    """Rank of a unit from 1; 0 if it has no score."""
    if np.isnan(everything[place]):
        return 0
    ahead = (everything > everything[place]).sum() + (everything[:place] == everything[place]).sum()
    return int(ahead) + 1


def highest_ranked(run: FinishedRun, model: str, language: str, *, method: str = "contrast", rank: int = 1) -> Neuron:
    """Find the neuron of a rank under a method and language; rank 1 is the highest."""
    run.check(language=language)
    methods = method_scores(run, model)
    if method not in methods:
        raise CraneError(f"method {method!r}: ranks no neurons; those that do are {', '.join(methods)}")
    scores = methods[method][language]
    if not 1 <= rank <= scores.size:
        raise CraneError(f"rank {rank}: the {model} model has {scores.size} neurons, ranks go from 1")
    layer, index = divmod(int(_order(scores)[rank - 1]), scores.shape[1])
    return Neuron(model, layer, index)


def choose_neuron(
    run: FinishedRun, *, model: str = "base", language: str = "", layer: int = -1, index: int = -1
) -> tuple[Neuron, str]:
    """Choose the neuron to inspect, and the language to inspect it in.

    Without a language it is Vietnamese, as in the paper's examples, or else the run's first one. Layer and index are by
    default (-1) those of the highest-ranked neuron of `contrast` in the language, within the layer if that is given.
    """
    language = language or ("vi" if "vi" in run.languages else run.languages[0])
    run.check(language=language)
    check_neuron(run, Neuron(model, max(layer, 0), max(index, 0)))
    if index >= 0:
        return Neuron(model, max(layer, 0), index), language
    if layer < 0:
        return highest_ranked(run, model, language), language
    scores = method_scores(run, model)["contrast"][language][layer]
    return Neuron(model, layer, int(_order(scores)[0])), language


def neuron_ranks(run: FinishedRun, neuron: Neuron) -> pd.DataFrame:
    """Rank a neuron, and the two weight rows that make it, under every method and language.

    `rank` is 1 for the highest and 0 without a score, `of` the units ranked, `sets` the budgets at which the method
    selects it. ``kurtosis_gate`` and ``kurtosis_up`` are ranks of the rows among all rows.
    """
    check_neuron(run, neuron)
    budgets: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for item in run.sets(neuron.model):
        for site, layers in item.sites.items():
            if neuron.index in layers[neuron.layer]:
                budgets[item.method, item.language, site].append(item.budget)
    records = []

    def record(method: str, language: str, everything: np.ndarray, place: int, sets: list[str]) -> None:
        units, score = int(np.isfinite(everything).sum()), float(everything[place])
        records.append((method, language, score, _rank(everything, place), units, " ".join(sorted(sets))))

    for method, scores in method_scores(run, neuron.model).items():
        for language, array in scores.items():
            place = neuron.layer * array.shape[1] + neuron.index
            record(method, language, array.ravel(), place, budgets[method, language, "neuron"])
    for language, z in run.unit_scores(neuron.model).kurtosis.items():
        everything = np.concatenate([array.ravel() for array in z.values()])
        starts = dict(zip(z, np.cumsum([0, *(array.size for array in z.values())]), strict=False))
        for method, site in ROW_METHODS.items():
            if site in z:
                place = int(starts[site]) + neuron.layer * z[site].shape[1] + neuron.index
                record(method, language, everything, place, budgets["kurtosis", language, site])
    return pd.DataFrame(records, columns=["method", "language", "score", "rank", "of", "sets"])


def neuron_facts(run: FinishedRun, neuron: Neuron) -> pd.DataFrame:
    """Values of a neuron in every language, over the documents that relevance was measured on.

    `share` is relevance divided by the language's summed |relevance|, which `contrast` compares, `gradient` the plain
    gradient times activation, `firing_rate` a share of tokens.
    """
    check_neuron(run, neuron)
    units = run.unit_scores(neuron.model)
    values = {
        f"relevance_{objective}": unit_means(run.statistics(neuron.model, objective), "neuron")
        for objective in run.profile.relevance.objectives
    }
    values["abs_relevance"] = units.absolute
    values["share"] = {language: array / np.abs(array).sum() for language, array in units.neuron.items()}
    values |= {"gradient": units.gradient, "firing_rate": units.firing}
    columns = {name: [float(of[code][neuron.place]) for code in run.languages] for name, of in values.items()}
    return pd.DataFrame({"language": run.languages, **columns})


def masking_cost(run: FinishedRun, neuron: Neuron, *, count: int) -> pd.DataFrame:
    """NLL per token of at most `count` held-out texts per language, unmasked and with one neuron zeroed.

    `low` and `high` are the 95 % interval of the change from the paired bootstrap over documents, as in section 03.
    """
    check_neuron(run, neuron)
    model, tokenizer = run.model(neuron.model)
    parts, options = parts_of(model), run.profile.relevance
    indices = [np.empty(0, dtype=np.int64) for _layer in parts.layers]
    indices[neuron.layer] = np.array([neuron.index])
    one = NeuronSet({"neuron": indices}, parts.widths, method="one neuron", language="")
    frames, records = [], []
    for language in run.languages:
        texts = run.sample("perplexity", language, count=count).tolist()
        documents = token_ids(texts, tokenizer, max_length=options.max_length)
        before, tokens = document_nll(model, documents, token_budget=options.token_budget)
        with masked(model, one):
            after, _ = document_nll(model, documents, token_budget=options.token_budget)
        labels = {"profile": run.profile.name, "model": neuron.model, "evaluation_language": language}
        for nll, neurons in ((before, None), (after, one)):
            values = {"document": range(len(nll)), "nll": nll, "tokens": tokens}
            frames.append(pd.DataFrame({**values, **labels, **mask_labels(neurons, selected_on="")}))
        total = int(tokens.sum())
        records.append((language, before.sum() / total, after.sum() / total, len(documents), total))
    rows = pd.concat(frames, ignore_index=True)
    drops = drop_intervals(resample_documents(rows, metric="nll", random_seed=run.profile.random_seed))
    means = pd.DataFrame(records, columns=["evaluation_language", "nll", "nll_masked", "documents", "tokens"])
    table = means.merge(drops, on="evaluation_language").rename(columns={"evaluation_language": "language"})
    return table[["language", "nll", "nll_masked", "change", "low", "high", "documents", "tokens"]]
