"""Stage: relevance statistics of every language on one model, with every seed, and of the plain gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import write_json
from crane_lib.relevance import Statistics, document_relevance
from crane_lib.relevance.distributed import rank, world
from crane_lib.stages.passes import GRADIENT, Passes, run_in_processes

__all__ = [
    "GRADIENT",
    "check_same_model",
    "load_statistics",
    "make_relevance",
    "readable_tokens",
    "statistics_file",
]

_EXAMPLES = 2  # documents a language whose relevance is kept token by token
_EXAMPLE_TOKENS = 48


def statistics_file(folder: Path, seed: str, language: str) -> Path:
    """Where the statistics of a language lie; `seed` is a seed's name, or ``gradient`` for the plain gradient."""
    return folder / f"{seed}.{language}.safetensors"


def load_statistics(folder: Path, seed: str, languages: list[str]) -> dict[str, Statistics]:
    """Statistics of every language under one seed."""
    return {language: Statistics.load(statistics_file(folder, seed, language)) for language in languages}


def make_relevance(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    languages: list[str],
    rule: str,
    seeds: list[str],
    token_budget: int,
    max_length: int,
    device: str,
    dtype: str,
    trust_remote_code: bool,
    checkpointing: bool = False,
    processes: int = 1,
    scratch: Path | None = None,
) -> None:
    """Write ``<seed>.<language>.safetensors``, ``gradient.<language>.safetensors`` and ``tokens.json``.

    Under torchrun every process calls this and the first one writes; otherwise `processes` above 1 starts as many on
    this machine. Finished shards lie in `scratch`, from where a later call goes on.
    """
    passes = Passes(
        corpus=str(corpus),
        model=str(model),
        languages=languages,
        rule=rule,
        seeds=seeds,
        token_budget=token_budget,
        max_length=max_length,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        checkpointing=checkpointing,
    )
    if processes > 1 and world() == 1:
        if scratch is None:
            raise CraneError(f"relevance in {processes} processes needs a scratch folder, for their shards")
        run_in_processes(passes, count=processes, scratch=scratch)  # what follows finds every shard made
    network, tokenizer, documents = passes.load()
    for name, language, statistics in passes.run(network, documents, scratch=scratch):
        if rank() == 0:
            statistics.save(statistics_file(folder, name, language))
    if rank() == 0:
        write_json(folder / "tokens.json", _examples(network, tokenizer, documents, seed=seeds[0], rule=rule))


def _examples(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: dict[str, list[np.ndarray]],
    *,
    seed: str,
    rule: str,
) -> list[dict[str, Any]]:
    """The first documents of each language with the relevance of their tokens."""
    examples = []
    for language, tokens in documents.items():
        for document in tokens[:_EXAMPLES]:
            cut = document[:_EXAMPLE_TOKENS]
            found = document_relevance(network, torch.from_numpy(cut)[None], seed=seed, rule=rule)
            pieces, relevance = readable_tokens(tokenizer, cut.tolist(), found.token[0].tolist())
            examples.append({"language": language, "tokens": pieces, "relevance": relevance})
    return examples


def readable_tokens(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], relevance: list[float]
) -> tuple[list[str], list[float]]:
    """Texts and relevances of tokens, those that are only bytes of a character put together and summed."""
    texts: list[str] = []
    sums: list[float] = []
    held: list[int] = []
    total = 0.0
    for token, value in zip(tokens, relevance, strict=True):
        held.append(token)
        total += value
        text = str(tokenizer.decode(held))
        if "\ufffd" not in text:
            texts.append(text)
            sums.append(total)
            held, total = [], 0.0
    if held:
        texts.append(str(tokenizer.decode(held)))
        sums.append(total)
    return texts, sums


def check_same_model(statistics: dict[str, Statistics]) -> str:
    """The model that all statistics come from.

    Raises
    ------
    CraneError : they come from several
    """
    models = {item.provenance["model"] for item in statistics.values()}
    if len(models) != 1:
        raise CraneError(f"the statistics come from several models: {sorted(models)}; compute them anew")
    return models.pop()
