"""Stages: random controls, dose-response and the ablation of selection rules, on a sample of the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from crane_lib.errors import CraneError
from crane_lib.methods import METHODS, PUBLISHED
from crane_lib.neurons import write_neuron_sets
from crane_lib.nll import document_nll
from crane_lib.parallel import rank
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import UnitScores, load_statistics, unit_means
from crane_lib.selection import Chosen, Scores, budget_count, marked_indices
from crane_study.frames import write_frame
from crane_study.options import DocumentOptions, QuestionOptions
from crane_study.profile import Controls, Selection
from crane_study.steps.masks import (
    evaluate_states,
    every_neuron,
    held_out,
    masks_of,
    measure_documents,
    measure_questions,
    question_harness,
)
from crane_study.steps.selection import select_all, sets_file, write_random_like
from crane_study.steps.variants import kurtosis_variants, relevance_variants

FEW = ("kurtosis_z", "contrast_weighted", "contrast_guarded")  # rules of the ablation where it is to be short
ANY = "any"


def select_random(layers: int, width: int, *, count: int, generator: np.random.Generator) -> Chosen:
    """Select `count` random neurons out of all layers together."""
    mask = np.zeros(layers * width, dtype=bool)
    mask[generator.choice(mask.size, size=count, replace=False)] = True
    return {"neuron": marked_indices(mask.reshape(layers, width))}


def select_fully_random(layers: int, width: int, *, generator: np.random.Generator) -> Chosen:
    """Select random neurons; their number is random too, uniform from none to all."""
    count = int(generator.integers(0, layers * width, endpoint=True))
    return select_random(layers, width, count=count, generator=generator)


def make_control_sets(
    folder: Path,
    *,
    relevance: Path,
    languages: list[str],
    objectives: list[str],
    methods: Iterable[str],
    options: dict[str, Any],
    controls: dict[str, Any],
    random_seed: int,
    documents: Path | None = None,
) -> None:
    """Write ``<method>@<budget>.json`` for every method, budget and random control, and ``variants@all.json``.

    Global random sets are drawn from the neurons of all layers together, one set per draw for all languages. Every
    method's sets at the common budget and as published have random sets of their own size in every layer and site.
    """
    selection, sizes = Selection(**options), Controls(**controls)
    budget, random_draws = selection.budget, selection.random_draws
    scores = UnitScores.read(relevance, objective=objectives[0], languages=languages, documents=documents)
    of_methods = {name: METHODS[name].scores(scores) for name in methods}
    layers, width = scores.layers, scores.widths["neuron"]

    def write_random(method: str, level: str, choose: Callable[..., Chosen], *, draws: int, place: int) -> None:
        """Write the sets of all draws; `place` separates the random numbers of the levels."""
        sets = []
        for draw in range(draws):
            chosen = choose(layers, width, generator=np.random.default_rng([random_seed, draw, place]))
            sets += scores.sets(method, level, dict.fromkeys(languages, chosen), draw=draw)
        write_neuron_sets(sets_file(folder, method, level), sets)

    for share in sorted({budget, *sizes.budgets}):
        at = f"{share:g}"
        for name, found in of_methods.items():
            sets = scores.sets(name, at, METHODS[name].choose(found, budget=share))
            write_neuron_sets(sets_file(folder, name, at), sets)
        choose = partial(select_random, count=budget_count(share, layers * width))
        draws = random_draws if share == budget else sizes.draws
        write_random("random_global", at, choose, draws=draws, place=round(1e6 * share))
    write_random("random_full", ANY, select_fully_random, draws=random_draws, place=0)
    for like, chosen in select_all(scores, methods, selection).items():
        if like[1] == PUBLISHED:
            write_neuron_sets(sets_file(folder, *like), scores.sets(*like, chosen))
        write_random_like(folder, chosen, like=like, scores=scores, draws=sizes.draws, random_seed=random_seed)
    variants = kurtosis_variants(scores.kurtosis)
    variants |= relevance_variants(scores.neuron, _log_probability(relevance, objectives, languages), budget=budget)
    kept = {key: chosen for key, chosen in variants.items() if sizes.ablation == "all" or key[0] in FEW}
    everything = [item for key, chosen in kept.items() for item in scores.sets(*key, chosen)]
    write_neuron_sets(sets_file(folder, "variants", "all"), everything)


def _log_probability(relevance: Path, objectives: list[str], languages: list[str]) -> dict[str, Scores] | None:
    """Mean relevance under the log-probability objective, signed and absolute; None if it was not computed."""
    if "log_probability" not in objectives:
        return None
    statistics = load_statistics(relevance, "log_probability", languages)
    return {"signed": unit_means(statistics, "neuron"), "absolute": unit_means(statistics, "abs_neuron")}


def make_control_perplexity(
    folder: Path, *, corpus: Path, model: Path, sets: Path, options: DocumentOptions, scratch: Path | None = None
) -> None:
    """Write rows.csv, documents.parquet, masks.csv and parts.csv (a layer's MLP or attention off), on a sample."""
    network, tokenizer = options.loading.load(model)
    tokens, numbers = held_out(corpus, tokenizer, options)
    masks = masks_of({options.model_name: sets}, options.masks) + every_neuron(network, options)
    measure_documents(folder, network, tokens, masks, options=options, numbers=numbers, scratch=scratch)

    def score() -> pd.DataFrame:
        sums = {k: document_nll(network, found, token_budget=options.token_budget) for k, found in tokens.items()}
        values = {k: float(np.exp(-nll.sum() / predicted.sum())) for k, (nll, predicted) in sums.items()}
        return pd.DataFrame({"evaluation_language": list(values), "value": list(values.values())})

    _write_silenced(folder, network, score, metric="token_probability", scratch=scratch)


def make_control_nlu(
    folder: Path, *, corpus: Path, model: Path, sets: Path, options: QuestionOptions, scratch: Path | None = None
) -> None:
    """Write rows.csv, items.parquet and parts.csv, on sampled questions and at the chosen budgets."""
    masks = masks_of({options.model_name: sets}, options.masks)
    masks = [mask for mask in masks if mask[1] is None or not mask[1].method.startswith(("log_", "random_like_"))]
    if not any(neurons is not None and neurons.method == "contrast" for _name, neurons in masks):
        wanted = ", ".join(budget for budget in options.masks.budgets or [] if budget != ANY)
        raise CraneError(f"controls.question_budgets: none of {wanted} is among controls.budgets; name one that is")
    with question_harness(corpus, model, options) as (network, harness):
        masks += every_neuron(network, options)
        measure_questions(folder, network, harness, masks, options=options, scratch=scratch)

        def score() -> pd.DataFrame:
            means = harness.accuracy().groupby("language")["correct"].mean()
            return pd.DataFrame({"evaluation_language": means.index, "value": means.to_numpy()})

        _write_silenced(folder, network, score, metric="accuracy", scratch=scratch)


def _silence(module: torch.nn.Module, args: Any, output: Any) -> Any:
    """Hook: the module adds nothing to the residual stream."""
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


@contextmanager
def _silenced(modules: list[torch.nn.Module]) -> Iterator[None]:
    """Let these modules add nothing to the residual stream inside the block."""
    with HookSet() as hooks:
        for module in modules:
            hooks.after(module, _silence)
        yield


def _write_silenced(
    folder: Path, network: Any, score: Callable[[], pd.DataFrame], *, metric: str, scratch: Path | None
) -> None:
    """Write parts.csv: scores with the MLP or the attention of one layer, or of all layers, silenced.

    Its columns are part (none, mlp or attention), layer (-1: all), evaluation_language, metric and value.
    """
    layers = parts_of(network).layers
    cases: dict[tuple[str, int], list[torch.nn.Module]] = {("none", -1): []}
    for part in ("mlp", "attention"):
        modules = [layer.down if part == "mlp" else layer.attention for layer in layers]
        cases |= {(part, number): [module] for number, module in enumerate(modules)} | {(part, -1): modules}
    states = {f"{part}.{number}": partial(_silenced, modules) for (part, number), modules in cases.items()}
    found = dict(evaluate_states(states, score, description="Layers silenced", scratch=scratch))
    if rank() > 0:
        return
    frames = [found[f"{part}.{number}"].assign(part=part, layer=number, metric=metric) for part, number in cases]
    columns = ["part", "layer", "evaluation_language", "metric", "value"]
    write_frame(folder / "parts.csv", pd.concat(frames, ignore_index=True)[columns])
