"""Relevance statistics of a whole corpus, in batches of documents of like length."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from crane_lib.batching import pad_batch
from crane_lib.errors import CraneError
from crane_lib.relevance.engine import DocumentRelevance, document_relevance
from crane_lib.relevance.families import ModelParts, parts_of
from crane_lib.relevance.moments import Moments
from crane_lib.relevance.seeds import seed_named
from crane_lib.relevance.statistics import Statistics
from crane_lib.relevance.taps import SITES

BATCH_VALUES = 1 << 26  # most values a batch of documents may yield: they are held in float64 (512 MiB)

VOLATILE = ("_name_or_path", "transformers_version")  # settings that say nothing about what the model computes


def stream_statistics(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    *,
    seed: str = "gold_logit",
    rule: str = "attnlrp",
    token_budget: int = 8192,
    max_length: int = 2048,
    model_fingerprint: str | None = None,
    labels: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Compute the statistics of a corpus; how it falls into batches does not matter beyond rounding.

    Parameters
    ----------
    documents : token ids of each document, without pads
    token_budget : most tokens of a batch, pads included; halved with a warning when memory runs out
    max_length : documents are cut after so many tokens
    model_fingerprint : name of these weights for the file; `fingerprint_weights` of the model if left out
    labels : free text to keep with the numbers, such as the language
    progress : called as `progress(documents done, documents in all)` after each batch

    Raises
    ------
    CraneError : an unknown model, rule or seed; or, with its index, a document that is too short, too long for the
        model, has token ids the model does not know, does not fit in memory by itself or gives values not finite
    """
    parts = parts_of(model)
    _check_documents(model, parts, documents, seed=seed, max_length=max_length)
    order = sorted(range(len(documents)), key=lambda i: min(len(documents[i]), max_length), reverse=True)
    config: Any = model.config
    values_a_document = len(parts.layers) * (4 * config.intermediate_size + config.hidden_size)
    most_documents = max(1, BATCH_VALUES // values_a_document)
    provenance = {
        "model": model_fingerprint or fingerprint_weights(model),
        "rule": rule,
        "seed": seed,
        "dtype": str(next(parts.embedding.parameters()).dtype).removeprefix("torch."),
        "max_length": str(max_length),
    }
    statistics: Statistics | None = None
    done = 0
    while done < len(order):
        longest = min(len(documents[order[done]]), max_length)
        size = min(max(1, token_budget // longest), most_documents)
        chosen = order[done : done + size]
        batch = _batch_statistics(model, [documents[i][:max_length] for i in chosen], chosen, provenance=provenance)
        if batch is None:
            if len(chosen) == 1:
                raise CraneError(
                    f"document {chosen[0]}: its {longest} tokens do not fit in memory; lower max_length or "
                    "load the model in bfloat16"
                )
            token_budget = longest * (len(chosen) // 2)
            warnings.warn(f"memory ran out: going on with {token_budget} tokens a batch", stacklevel=2)
            continue
        if statistics is None:
            statistics = batch
        else:
            statistics.merge(batch)
        done += len(chosen)
        if progress is not None:
            progress(done, len(order))
    if statistics is None:
        raise CraneError("there are no documents to compute statistics from")
    statistics.labels = dict(labels or {})
    return statistics.to("cpu")


def fingerprint_weights(model: nn.Module) -> str:
    """Short hash of a model's configuration and of every weight, to tell two models apart."""
    config: Any = model.config
    settings = {name: value for name, value in config.to_dict().items() if name not in VOLATILE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _check_documents(
    model: nn.Module, parts: ModelParts, documents: Sequence[Sequence[int]], *, seed: str, max_length: int
) -> None:
    shortest = seed_named(seed).shortest
    config: Any = model.config
    embedding: Any = parts.embedding
    for index, document in enumerate(documents):
        length = min(len(document), max_length)
        if length < shortest:
            raise CraneError(f"document {index}: has {length} tokens, but the seed {seed!r} needs at least {shortest}")
        if length > config.max_position_embeddings:
            raise CraneError(
                f"document {index}: has {length} tokens, but the model takes {config.max_position_embeddings}; "
                "lower max_length"
            )
        if min(document) < 0 or max(document) >= embedding.num_embeddings:
            raise CraneError(
                f"document {index}: token ids from {min(document)} to {max(document)}, but the model knows "
                f"0 to {embedding.num_embeddings - 1}; it was made with another tokenizer"
            )


def _batch_statistics(
    model: nn.Module, documents: list[Sequence[int]], indices: list[int], *, provenance: dict[str, str]
) -> Statistics | None:
    """Statistics of one batch, or None if memory ran out; `indices` are the documents' places in the corpus."""
    input_ids, attention_mask = pad_batch(documents)
    try:
        found = document_relevance(model, input_ids, attention_mask, seed=provenance["seed"], rule=provenance["rule"])
        _check_finite(found, indices)
        moments = {site: Moments.of(getattr(found, site)) for site in SITES}
        return Statistics(moments, found.active.sum(0), int(found.lengths.sum()), provenance)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    # only here, past the except clause, is the failed pass no longer held by its exception
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _check_finite(found: DocumentRelevance, indices: list[int]) -> None:
    finite = found.target.isfinite()
    for site in SITES:
        finite &= getattr(found, site).isfinite().flatten(1).all(1)
    if not finite.all():
        index = indices[int((~finite).nonzero()[0])]
        raise CraneError(f"document {index}: its relevance is not finite; load the model in bfloat16 or float32")


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or "can't allocate memory" in text
        or "not enough memory" in text
    )
