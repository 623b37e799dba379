"""Stage: relevance statistics of every language on one model, with every seed, and of the plain gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import write_json
from crane_lib.models.loading import load_model, model_directory
from crane_lib.progress import Task, progress
from crane_lib.relevance import Statistics, document_relevance, stream_statistics
from crane_lib.stages.texts import tokenized

GRADIENT = "gradient"
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
) -> None:
    """Write ``<seed>.<language>.safetensors``, ``gradient.<language>.safetensors`` and ``tokens.json``."""
    network, tokenizer = load_model(
        model_directory(model), device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    frame = pd.read_parquet(corpus / "documents.parquet")
    documents = {
        language: tokenized(frame, tokenizer, split="relevance", language=language, max_length=max_length)
        for language in languages
    }
    # The plain gradient is the rival of relevance that shares everything but its rules.
    passes = [(seed, seed, rule) for seed in seeds] + [(GRADIENT, seeds[0], "gradient")]
    total = len(passes) * sum(len(texts) for texts in documents.values())
    with progress("Relevance", total) as bar:
        for name, seed, chosen_rule in passes:
            for language, tokens in documents.items():
                statistics = stream_statistics(
                    network,
                    tokens,
                    seed=seed,
                    rule=chosen_rule,
                    token_budget=token_budget,
                    max_length=max_length,
                    labels={"language": language},
                    progress=_advance(bar),
                )
                statistics.save(statistics_file(folder, name, language))
    examples = []
    for language, tokens in documents.items():
        for document in tokens[:_EXAMPLES]:
            cut = document[:_EXAMPLE_TOKENS]
            found = document_relevance(network, torch.tensor([cut]), seed=seeds[0], rule=rule)
            pieces, relevance = readable_tokens(tokenizer, cut, found.token[0].tolist())
            examples.append({"language": language, "tokens": pieces, "relevance": relevance})
    write_json(folder / "tokens.json", examples)


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


def _advance(bar: Task) -> Callable[[int, int], None]:
    before = 0

    def advance(done: int, _total: int) -> None:
        nonlocal before
        bar.advance(done - before)
        before = done

    return advance


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
