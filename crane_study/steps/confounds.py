"""Steps: masks on parts of one language, and the masks of languages with other values and on other texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.files import write_json
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_lib.parallel import rank
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import UnitScores
from crane_study.data.changed_texts import ROMANISED, romanised, shuffled
from crane_study.data.corpora import tokenized
from crane_study.data.partitions import COUNT, SUBJECTS, THIRDS, part_names, third
from crane_study.options import DocumentOptions, PassOptions
from crane_study.profile import Selection
from crane_study.steps.masks import Mask, held_out, measure_documents
from crane_study.steps.selection import select_all
from crane_study.uncertainty.overlap import as_neurons

GUESSING = "guessing.json"  # nats per token, each token of the vocabulary being as likely
_DOCUMENTS = 16  # per language, whose activations take the place of others
_TOKENS = 4  # of each of them, from which random ones are taken


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Sets of the confounds: (method, budget) each, the options that select them, and the objective."""

    sets: Sequence[tuple[str, str]]
    selection: dict[str, Any]
    objective: str

    def select(self, relevance: Path, languages: list[str]) -> list[NeuronSet]:
        """Select the sets by the statistics of some languages, or parts of one, in a folder."""
        scores = UnitScores.read(relevance, objective=self.objective, languages=languages)
        chosen = select_all(scores, dict.fromkeys(method for method, _ in self.sets), Selection(**self.selection))
        return [item for key in self.sets for item in scores.sets(*key, chosen[key])]


def as_masks(sets: Sequence[NeuronSet], model: str) -> list[Mask]:
    """Return the unmasked model and sets that were selected on `model`."""
    return [("", None), *((model, item) for item in sets)]


@torch.no_grad()
def sampled_activations(
    network: PreTrainedModel, documents: Sequence[np.ndarray], *, each: int, skip: int = 0, random_seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the mean of h over all tokens of the documents (L, I), and h at `each` random ones of every document.

    The latter is (L, documents * each, I). The first `skip` tokens of a document are left out.
    """
    generator, parts = np.random.default_rng(random_seed), parts_of(network)
    total, tokens, drawn = torch.zeros(()), 0, []
    for ids in documents:
        places = torch.from_numpy(generator.integers(skip, len(ids), size=each))
        seen: list[Tensor] = []
        with HookSet() as hooks:
            for layer in parts.layers:
                hooks.before(layer.down, lambda _module, args, seen=seen: seen.append(args[0][0].cpu()))
            parts.backbone(input_ids=torch.from_numpy(ids)[None].to(network.device), use_cache=False)
        values = torch.stack(seen)  # (L, T, I)
        total, tokens = total + values[:, skip:].double().sum(1), tokens + len(ids) - skip
        drawn.append(values[:, places])
    return total / tokens, torch.cat(drawn, dim=1)


def mean_ablated(means: Tensor, model: PreTrainedModel, neurons: NeuronSet) -> AbstractContextManager[Any]:
    """Put the mean (L, I) in the place of the activations of the neurons of a set; a row stands for its neuron."""

    def values(layer: int, indices: Tensor, found: Tensor) -> Tensor:
        return means[layer].to(found)[indices].expand_as(found)

    return masked(model, as_neurons(neurons), values=values)


def resampled(
    bank: Tensor, random_seed: int, model: PreTrainedModel, neurons: NeuronSet
) -> AbstractContextManager[Any]:
    """Put the activations at random tokens in the place of a set's; `bank` (L, tokens, I) has those that are drawn.

    A token's neurons of one layer are taken from one token. A row stands for its neuron.
    """
    generator = torch.Generator().manual_seed(random_seed)

    def values(layer: int, indices: Tensor, found: Tensor) -> Tensor:
        places = torch.randint(bank.shape[1], found.shape[:-1], generator=generator)
        return bank[layer][:, indices.cpu()][places].to(found)

    return masked(model, as_neurons(neurons), values=values)


def make_confounds(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    relevance: Path,
    compared: Compared,
    options: DocumentOptions,
    passes: PassOptions,
    scratch: Path | None = None,
) -> None:
    """Write for each condition a folder as `measure_documents` does, and guessing.json: the NLL of guessing a token.

    zero : the masks of sections 03 and 04;  mean, resampled : other values in the place of zeros;  romanised,
    shuffled : zeros on changed texts;  not_parallel : sets of which each language was selected on another third of
    its documents
    """
    network, tokenizer = options.loading.load(model)
    frame, length = pd.read_parquet(corpus / "documents.parquet"), passes.max_length
    means, banks = [], []
    for language in options.languages:
        tokens = tokenized(frame, tokenizer, split="relevance", language=language, max_length=length)
        skip, seed = passes.skip_first_tokens, options.random_seed
        mean, bank = sampled_activations(network, tokens[:_DOCUMENTS], each=_TOKENS, skip=skip, random_seed=seed)
        means.append(mean)
        banks.append(bank)
    masks = as_masks(compared.select(relevance, options.languages), options.model_name)
    intervene = {
        "mean": partial(mean_ablated, torch.stack(means).mean(0)),
        "resampled": partial(resampled, torch.cat(banks, dim=1), options.random_seed),
    }
    change = {"shuffled": shuffled}
    if set(options.languages) & set(ROMANISED):
        change["romanised"] = romanised
    others = {}
    if (relevance / THIRDS).is_dir():
        names = {third(code, place % COUNT + 1): code for place, code in enumerate(options.languages)}
        found = compared.select(relevance / THIRDS, list(names))
        others["not_parallel"] = as_masks([replace(s, language=names[s.language]) for s in found], options.model_name)
    if rank() == 0:
        write_json(folder / GUESSING, float(np.log(network.config.get_text_config().vocab_size)))
    for name in ("zero", *intervene, *change, *others):
        documents, numbers = held_out(corpus, tokenizer, options, change=change.get(name))
        measure_documents(
            folder / name,
            network,
            documents,
            others.get(name, masks),
            options=options,
            numbers=numbers,
            scratch=None if scratch is None else scratch / name,
            intervene=intervene.get(name, masked),
        )


def make_null(
    folder: Path,
    *,
    partitions: Path,
    model: Path,
    relevance: Path,
    compared: Compared,
    options: DocumentOptions,
    subjects: Path | None = None,
    scratch: Path | None = None,
) -> None:
    """Write for each partition a folder as `measure_documents` does: ``thirds.<language>``, ``subjects.<language>``.

    The parts of one language's documents are in the place of languages; `relevance` has the statistics of thirds,
    `subjects` those of subjects.
    """
    network, tokenizer = options.loading.load(model)
    for kind, statistics in ((THIRDS, relevance / THIRDS), (SUBJECTS, subjects)):
        for language in options.languages:
            names = part_names(partitions, language, kind=kind)
            if statistics is None or not statistics.is_dir() or len(names) < COUNT:
                continue
            documents, numbers = held_out(partitions, tokenizer, replace(options, languages=names))
            masks = as_masks(compared.select(statistics, names), options.model_name)
            given: dict[str, Any] = {"options": options, "numbers": numbers}
            given["scratch"] = None if scratch is None else scratch / f"{kind}.{language}"
            measure_documents(folder / f"{kind}.{language}", network, documents, masks, **given)
