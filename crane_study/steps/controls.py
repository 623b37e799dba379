"""Stages: random controls, dose-response and the ablation of selection rules, on a sample of the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from crane_lib import selection
from crane_lib.errors import CraneError
from crane_lib.methods import METHODS
from crane_lib.models import load_model, model_directory
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_lib.nll import document_nll
from crane_lib.parallel import rank
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import UnitScores, load_statistics, unit_means
from crane_lib.variants import kurtosis_variants, relevance_variants
from crane_study.data.corpora import sampled_documents
from crane_study.frames import write_frame
from crane_study.steps.masks import build_harness, evaluate_states, masks_of, measure_documents, measure_questions
from crane_study.steps.selection import sets_file

FEW = ("kurtosis_z", "contrast_weighted")  # rules of the ablation where it is to be short
ANY = "any"


def make_control_sets(
    folder: Path,
    *,
    relevance: Path,
    languages: list[str],
    objectives: list[str],
    budget: float,
    budgets: list[float],
    draws: int,
    random_draws: int,
    ablation: str,
    random_seed: int,
) -> None:
    """Write ``<method>@<budget>.json`` for every method, budget and random control, and ``variants@all.json``."""
    scores = UnitScores.read(relevance, objective=objectives[0], languages=languages)
    layers, width = scores.layers, scores.widths["neuron"]

    def write(method: str, level: str, sets: list[NeuronSet]) -> None:
        write_neuron_sets(sets_file(folder, method, level), sets)

    for share in sorted({budget, *budgets}):
        at = f"{share:g}"
        for name, method in METHODS.items():
            write(name, at, scores.sets(name, at, method.select(scores, budget=share)))
        count = selection.budget_count(share, layers * width)
        random = []
        for draw in range(random_draws if share == budget else draws):
            generator = np.random.default_rng([random_seed, draw, round(1e6 * share)])
            same = selection.select_random(layers, width, count=count, generator=generator)
            random += scores.sets("random_global", at, dict.fromkeys(languages, same), draw=draw)
        write("random_global", at, random)
    full = []
    for draw in range(random_draws):
        generator = np.random.default_rng([random_seed, draw, 0])
        same = selection.select_fully_random(layers, width, generator=generator)
        full += scores.sets("random_full", ANY, dict.fromkeys(languages, same), draw=draw)
    write("random_full", ANY, full)
    logs = None
    if "log_probability" in objectives:
        of_logs = load_statistics(relevance, "log_probability", languages)
        logs = {"signed": unit_means(of_logs, "neuron"), "absolute": unit_means(of_logs, "abs_neuron")}
    variants = kurtosis_variants(scores.kurtosis) | relevance_variants(scores.neuron, logs, budget=budget)
    kept = {key: chosen for key, chosen in variants.items() if ablation == "all" or key[0] in FEW}
    write("variants", "all", [item for key, chosen in kept.items() for item in scores.sets(*key, chosen)])


def make_control_perplexity(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    sets: Path,
    profile: str,
    model_name: str,
    languages: list[str],
    documents: int,
    token_budget: int,
    max_length: int,
    random_seed: int,
    device: str,
    dtype: str,
    trust_remote_code: bool,
    scratch: Path | None = None,
) -> None:
    """Write rows.csv, documents.parquet and parts.csv (a layer's MLP or attention silenced), on sampled documents."""
    network, tokenizer = load_model(
        model_directory(model), device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    tokens, numbers = sampled_documents(
        corpus, tokenizer, languages=languages, documents=documents, max_length=max_length, random_seed=random_seed
    )
    measure_documents(
        folder,
        network,
        tokens,
        masks_of({model_name: sets}),
        labels={"profile": profile, "model": model_name},
        token_budget=token_budget,
        numbers=numbers,
        scratch=scratch,
    )

    def score() -> pd.DataFrame:
        sums = {k: document_nll(network, found, token_budget=token_budget) for k, found in tokens.items()}
        values = {k: float(np.exp(-nll.sum() / predicted.sum())) for k, (nll, predicted) in sums.items()}
        return pd.DataFrame({"evaluation_language": list(values), "value": list(values.values())})

    _write_silenced(folder, network, score, metric="token_probability", scratch=scratch)


def make_control_nlu(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    sets: Path,
    profile: str,
    model_name: str,
    languages: list[str],
    questions: int,
    budgets: list[str],
    sample_seed: int,
    scratch: Path | None = None,
    **options: Any,
) -> None:
    """Write rows.csv, items.parquet and parts.csv, on sampled questions and at these budgets.

    options : the rest of those of `crane_study.steps.masks.make_nlu`
    """
    masks = [
        (name, neurons)
        for name, neurons in masks_of({model_name: sets})
        if neurons is None or (neurons.budget in budgets and not neurons.method.startswith("log_"))
    ]
    if not any(neurons is not None and neurons.method == "contrast" for _name, neurons in masks):
        wanted = ", ".join(budget for budget in budgets if budget != ANY)
        raise CraneError(f"controls.question_budgets: none of {wanted} is among controls.budgets; name one that is")
    with TemporaryDirectory() as tasks:
        network, harness = build_harness(
            Path(tasks),
            corpus=corpus,
            model=model,
            model_name=model_name,
            languages=languages,
            sample=questions,
            sample_seed=sample_seed,
            **options,
        )
        labels = {"profile": profile, "model": model_name}
        measure_questions(folder, network, harness, masks, labels=labels, scratch=scratch)

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
    """These modules add nothing inside the block."""
    hooks = HookSet()
    try:
        for module in modules:
            hooks.after(module, _silence)
        yield
    finally:
        hooks.remove()


def _write_silenced(
    folder: Path, network: Any, score: Callable[[], pd.DataFrame], *, metric: str, scratch: Path | None
) -> None:
    """Write parts.csv: scores with the MLP or the attention of one layer, or of all, adding nothing.

    Its columns are part (none, mlp or attention), layer (-1: all), evaluation_language, metric and value.
    """
    layers = parts_of(network).layers
    cases: dict[tuple[str, int], list[torch.nn.Module]] = {("none", -1): []}
    for part in ("mlp", "attention"):
        modules = [layer.down if part == "mlp" else layer.attention for layer in layers]
        cases |= {(part, number): [module] for number, module in enumerate(modules)} | {(part, -1): modules}
    states = {f"{part}.{number}": partial(_silenced, modules) for (part, number), modules in cases.items()}
    found = evaluate_states(states, score, description="Layers silenced", scratch=scratch)
    if rank() > 0:
        return
    frames = [found[f"{part}.{number}"].assign(part=part, layer=number, metric=metric) for part, number in cases]
    columns = ["part", "layer", "evaluation_language", "metric", "value"]
    write_frame(folder / "parts.csv", pd.concat(frames, ignore_index=True)[columns])
