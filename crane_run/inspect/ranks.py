"""Values of one neuron in every language, its rank under every method, and the cost of masking it."""

from __future__ import annotations

from collections.abc import Mapping
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

_FAVOURITE = "vi"
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
    run.check_model(neuron.model)
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
    """Find the neuron of a rank under a method and language; rank 1 is the highest.

    Raises
    ------
    CraneError : unknown model, language or method, or no such rank
    """
    run.check_language(language)
    scores = _scores_of(method_scores(run, model), method)[language]
    if not 1 <= rank <= scores.size:
        raise CraneError(f"rank {rank}: the {model} model has {scores.size} neurons, ranks go from 1")
    layer, index = divmod(int(_order(scores)[rank - 1]), scores.shape[1])
    return Neuron(model, layer, index)


def choose_neuron(
    run: FinishedRun, *, model: str = "base", language: str = "", layer: int = -1, index: int = -1
) -> tuple[Neuron, str]:
    """Choose the neuron to inspect, and the language to inspect it in.

    Parameters
    ----------
    language : empty for Vietnamese, the language of the paper's examples, or else the run's first language
    layer, index : -1 for the highest-ranked of `contrast` in the language, within the layer if that is given

    Raises
    ------
    CraneError : the run has no such model, language or neuron
    """
    language = language or (_FAVOURITE if _FAVOURITE in run.languages else run.languages[0])
    run.check_language(language)
    check_neuron(run, Neuron(model, max(layer, 0), max(index, 0)))
    if index >= 0:
        return Neuron(model, max(layer, 0), index), language
    if layer < 0:
        return highest_ranked(run, model, language), language
    scores = method_scores(run, model)["contrast"][language][layer]
    return Neuron(model, layer, int(_order(scores)[0])), language


def _scores_of(scores: Mapping[str, Scores], method: str) -> Scores:
    if method not in scores:
        raise CraneError(f"method {method!r}: ranks no neurons; those that do are {', '.join(scores)}")
    return scores[method]


def neuron_ranks(run: FinishedRun, neuron: Neuron) -> pd.DataFrame:
    """Rank a neuron, and the two weight rows that make it, under every method and language.

    Returns
    -------
    frame with method (``kurtosis_gate`` and ``kurtosis_up`` are ranks of the rows among all rows), language, score,
    rank (1 is the highest, 0: no score), of (units ranked), and sets: the budgets at which the method selects it
    """
    check_neuron(run, neuron)
    records = []

    def record(method: str, language: str, everything: np.ndarray, place: int, sets: str) -> None:
        rank = _rank(everything, place)
        score = float(everything[place])
        records.append((method, language, score, rank, int(np.isfinite(everything).sum()), sets))

    for method, scores in method_scores(run, neuron.model).items():
        for language, array in scores.items():
            place = neuron.layer * array.shape[1] + neuron.index
            record(method, language, array.ravel(), place, _sets_with(run, neuron, method, language, "neuron"))
    for language, z in run.unit_scores(neuron.model).kurtosis.items():
        everything = np.concatenate([array.ravel() for array in z.values()])
        starts = dict(zip(z, np.cumsum([0, *(array.size for array in z.values())]), strict=False))
        for method, site in ROW_METHODS.items():
            if site in z:
                place = int(starts[site]) + neuron.layer * z[site].shape[1] + neuron.index
                record(method, language, everything, place, _sets_with(run, neuron, "kurtosis", language, site))
    return pd.DataFrame(records, columns=["method", "language", "score", "rank", "of", "sets"])


def _sets_with(run: FinishedRun, neuron: Neuron, method: str, language: str, site: str) -> str:
    """Budgets at which a method's set of a language holds the neuron (or its row), separated by spaces."""

    def holds(item: NeuronSet) -> bool:
        return site in item.sites and neuron.index in item.sites[site][neuron.layer]

    sets = [item for item in run.sets(neuron.model) if (item.method, item.language) == (method, language)]
    return " ".join(sorted(item.budget for item in sets if holds(item)))


def neuron_facts(run: FinishedRun, neuron: Neuron) -> pd.DataFrame:
    """Values of a neuron in every language, over the documents that relevance was measured on.

    Returns
    -------
    frame with language, relevance_<objective> (mean over documents) of every objective, abs_relevance, share (relevance
    divided by the language's summed |relevance|, what `contrast` compares), gradient (plain gradient times activation)
    and firing_rate (share of tokens)
    """
    check_neuron(run, neuron)
    units, place = run.unit_scores(neuron.model), neuron.place
    objectives = {
        f"relevance_{objective}": unit_means(run.statistics(neuron.model, objective), "neuron")
        for objective in run.profile.relevance.objectives
    }
    return pd.DataFrame(
        {
            "language": language,
            **{name: float(means[language][place]) for name, means in objectives.items()},
            "abs_relevance": float(units.absolute[language][place]),
            "share": float(units.neuron[language][place] / np.abs(units.neuron[language]).sum()),
            "gradient": float(units.gradient[language][place]),
            "firing_rate": float(units.firing[language][place]),
        }
        for language in run.languages
    )


def masking_cost(run: FinishedRun, neuron: Neuron, *, count: int) -> pd.DataFrame:
    """NLL per token of a sample of the held-out texts, unmasked and with one neuron zeroed.

    Parameters
    ----------
    count : most texts per language

    Returns
    -------
    frame with language, nll, nll_masked, change, low and high (its 95 % interval from the paired bootstrap over
    documents, as in section 03), documents and tokens
    """
    check_neuron(run, neuron)
    model, tokenizer = run.model(neuron.model)
    parts, options = parts_of(model), run.profile.relevance
    chosen = [[neuron.index] if layer == neuron.layer else [] for layer in range(len(parts.layers))]
    indices = [np.array(layer, dtype=np.int64) for layer in chosen]
    one = NeuronSet({"neuron": indices}, parts.widths, method="one neuron", language="")
    frames, records = [], []
    for language in run.languages:
        texts = run.sample("perplexity", language, count=count).tolist()
        documents = token_ids(texts, tokenizer, max_length=options.max_length)
        before, tokens = document_nll(model, documents, token_budget=options.token_budget)
        with masked(model, one):
            after, _ = document_nll(model, documents, token_budget=options.token_budget)
        for nll, neurons in ((before, None), (after, one)):
            labels = {"profile": run.profile.name, "model": neuron.model, "evaluation_language": language}
            labels |= mask_labels(neurons, selected_on="")
            frames.append(pd.DataFrame({"document": range(len(nll)), "nll": nll, "tokens": tokens}).assign(**labels))
        sizes = {"documents": len(documents), "tokens": int(tokens.sum())}
        means = {"nll": before.sum() / tokens.sum(), "nll_masked": after.sum() / tokens.sum()}
        records.append({"language": language, **means, **sizes})
    resampled = resample_documents(
        pd.concat(frames, ignore_index=True), metric="nll", random_seed=run.profile.random_seed
    )
    intervals = drop_intervals(resampled)[["evaluation_language", "change", "low", "high"]]
    table = pd.DataFrame(records).merge(intervals.rename(columns={"evaluation_language": "language"}), on="language")
    return table[["language", "nll", "nll_masked", "change", "low", "high", "documents", "tokens"]]
