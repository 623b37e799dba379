"""Relevance statistics of a whole corpus, by one process or several.

Documents are sorted by length and cut into shards, a shard into batches. Each shard gives statistics of its documents;
those of all shards are merged in order. Finished shards may be kept as files, so that a later call or another process
uses them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crane_lib.batches import Section, check_tokens, in_memory, pad_batch, rope_section, together
from crane_lib.errors import CraneError
from crane_lib.parallel import barrier, rank, share, world
from crane_lib.relevance.document import DocumentRelevance, document_relevance
from crane_lib.relevance.modules import column_norms, head_norms, parts_of
from crane_lib.relevance.moments import Moments
from crane_lib.relevance.objectives import objective_named
from crane_lib.relevance.statistics import Statistics, corpus_fingerprint, read_header
from crane_lib.wrappers import adapter_settings, causal_model

SHARD_BATCHES = 32  # most batches of a shard: the work that is lost when a process is killed
SHARDS = 32  # shards of a small corpus, so that every process has work
VISIBLE_SECONDS = 60.0  # network file systems may show a new file to other machines only after a while
BATCH_VALUES = 1 << 26  # most values of a batch of documents (256 MiB in float32)
MERGED = "merged.safetensors"  # the file that all shards of a corpus become
VOLATILE = ("_name_or_path", "transformers_version")  # settings without an effect on what the model computes

Documents = Sequence[Sequence[int] | np.ndarray | Tensor]
Report = Callable[[int, int], None]  # called with the number of documents done, and of all


def stream_statistics(
    model: nn.Module,
    documents: Documents,
    *,
    objective: str = "gold_logit",
    rule: str = "attnlrp",
    token_budget: int = 8192,
    max_length: int = 2048,
    skip_first_tokens: int = 0,
    checkpointing: bool = False,
    folder: str | os.PathLike[str] | None = None,
    model_fingerprint: str | None = None,
    labels: dict[str, str] | None = None,
    progress: Report | None = None,
) -> Statistics:
    """Compute the statistics of a corpus; its division into batches does not matter beyond rounding.

    Under torchrun (`crane_lib.parallel.processes`) every process calls this with the same arguments. They share the
    work, and all get the whole result. The number of processes does not matter at all: shards and the order of merging
    are the same.

    Parameters
    ----------
    documents : token ids of each document without pads; lists, or integer arrays on the CPU
    objective, rule : see `crane_lib.relevance.document_relevance`
    token_budget : most tokens of a batch, pads included; halved with a warning when memory runs out
    max_length : documents are cut to this number of tokens
    skip_first_tokens : number of tokens at the start of every document that the model reads and no statistic counts
    checkpointing : recompute each layer instead of keeping what its backward pass needs
    folder : keeps finished shards as files; several processes need one on a disk that they share
    model_fingerprint : identifies the weights; by default `fingerprint_weights` of the model
    labels : free text to keep with the numbers, such as the language
    progress : called with the number of tokens of the documents done, and of all, at the start and after each batch

    Raises
    ------
    CraneError : an unknown model, rule or objective; or a document that is too short or too long for the model, has
        unknown token ids, does not fit in memory by itself or gives values that are not finite
    """
    if folder is None and world() > 1:
        raise CraneError(f"{world()} processes work together: give a folder for their shards, on a disk they share")
    provenance = {
        "model": model_fingerprint or fingerprint_weights(model),
        "rule": rule,
        "objective": objective,
        "dtype": str(next(parts_of(model).embedding.parameters()).dtype).removeprefix("torch."),
        "max_length": str(max_length),
        "skip_first_tokens": str(skip_first_tokens),
    }
    maker = _ShardMaker(model, documents, provenance, token_budget=token_budget, checkpointing=checkpointing)
    shards = maker.plan()
    if folder is None:
        done = _Progress(progress, maker.tokens(range(len(documents))))
        whole = _merged(maker.make(shard, done) for shard in shards)
    else:
        whole = _through_files(maker, shards, Path(folder), progress)
    whole.labels = dict(labels or {})
    return whole


def fingerprint_weights(model: nn.Module) -> str:
    """Short hash of the configuration, of every weight and of the adapters in force of a model."""
    model = causal_model(model)
    config: Any = model.config
    settings = {name: value for name, value in config.to_dict().items() if name not in VOLATILE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(adapter_settings(model).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


# --- shards ---


@dataclass(frozen=True)
class Shard:
    """Indices of some documents of a corpus, longest first; shard `number` (from 1) of `total`."""

    number: int
    total: int
    documents: np.ndarray

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"shard-{self.number:05}-of-{self.total:05}.safetensors"


def batch_size(longest: int, *, token_budget: int, most_documents: int) -> int:
    """Number of documents of a batch whose longest has `longest` tokens, counting pads."""
    return min(max(1, token_budget // longest), most_documents)


def plan_shards(
    lengths: np.ndarray,
    *,
    token_budget: int,
    most_documents: int,
    section: Section,
    shard_batches: int = SHARD_BATCHES,
) -> list[Shard]:
    """Sort documents of these lengths (N,) and cut them into shards of about as many batches each.

    Parameters
    ----------
    token_budget, most_documents : most tokens and documents of a batch
    section : of a length, for the model; a batch lies in one
    shard_batches : most batches of a shard
    """
    order = np.argsort(-lengths, kind="stable")
    starts = [0]
    while starts[-1] < len(order):
        longest = int(lengths[order[starts[-1]]])
        size = batch_size(longest, token_budget=token_budget, most_documents=most_documents)
        starts.append(starts[-1] + together(lengths[order[starts[-1] :][:size]], section))
    each = min(max(1, (len(starts) - 1) // SHARDS), shard_batches)
    cuts = [*starts[:-1:each], len(order)]
    total = len(cuts) - 1
    return [Shard(i + 1, total, order[cuts[i] : cuts[i + 1]]) for i in range(total)]


def _merged(parts: Iterator[Statistics]) -> Statistics:
    """Merge the statistics of all shards in their order."""
    whole = next(parts)
    for part in parts:
        whole.merge(part)
    return whole


def _through_files(maker: _ShardMaker, shards: list[Shard], folder: Path, progress: Report | None) -> Statistics:
    """Make the shards whose files are missing, distributed over the processes, then merge all files into one.

    Only the merged file stays, so that passes over several corpora do not fill a disk with their shards.
    """
    every = range(sum(len(shard.documents) for shard in shards))
    total = maker.tokens(every)

    def there(name: str, documents: Iterable[int]) -> bool:
        with suppress(CraneError):  # no such file, or a damaged one
            header = read_header(folder / name)
            corpus = corpus_fingerprint(map(maker.ids, documents))
            return bool(header["provenance"] == maker.provenance and header["corpus"] == corpus)
        return False

    def missing() -> list[int] | None:
        """Numbers of the shards without a file; None if all are merged already."""
        if there(MERGED, every):
            return None
        found = [shard for shard in shards if not there(shard.name, shard.documents)]
        for shard in found:  # a file of something else would be taken for one that was made now
            (folder / shard.name).unlink(missing_ok=True)
        return [shard.number for shard in found]

    # The first process looks for all of them; each might see something else on a network disk.
    to_do = share(missing() if rank() == 0 else None)
    waiting = {number: shards[number - 1] for number in to_do or ()}
    done = _Progress(progress, total, before=total - sum(maker.tokens(shard.documents) for shard in waiting.values()))
    for number in list(waiting)[rank() :: world()]:
        maker.make(shards[number - 1], done).save(folder / shards[number - 1].name)
        # what other processes have finished meanwhile counts too
        waiting = {number: shard for number, shard in waiting.items() if not (folder / shard.name).is_file()}
        done.reach(total - sum(maker.tokens(shard.documents) for shard in waiting.values()))
    barrier()
    done.reach(total)
    if rank() == 0:
        if to_do is not None:
            _merged(read_files(folder, [shard.name for shard in shards])).save(folder / MERGED)
        for shard in shards:
            (folder / shard.name).unlink(missing_ok=True)
    barrier()
    return next(read_files(folder, [MERGED]))


def read_files(folder: Path, names: Iterable[str]) -> Iterator[Statistics]:
    """Yield the statistics of all files in order.

    Raises
    ------
    CraneError : a file is damaged, or a file that another process wrote does not appear
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    for name in names:
        path = folder / name
        while not path.is_file():
            if time.monotonic() > deadline:
                raise CraneError(
                    f"{path}: another process wrote it, but it cannot be seen from here; the folder must be on a "
                    "disk that all machines share"
                )
            time.sleep(0.2)
        yield Statistics.load(path)


class _Progress:
    """Counter of tokens done, which reports to the caller; documents differ too much in length."""

    def __init__(self, report: Report | None, total: int, *, before: int = 0) -> None:
        self._report, self._total, self._done = report, total, -1
        self.reach(before)

    def advance(self, tokens: int) -> None:
        self.reach(self._done + tokens)

    def reach(self, done: int) -> None:
        """Report the number of tokens done; never fewer than were reported before."""
        if done > self._done:
            self._done = done
            if self._report is not None:
                self._report(done, self._total)


# --- making one shard ---


class _ShardMaker:
    """Computes the statistics of one shard after another, in batches that shrink when memory runs out."""

    def __init__(
        self,
        model: nn.Module,
        documents: Documents,
        provenance: dict[str, str],
        *,
        token_budget: int,
        checkpointing: bool,
    ) -> None:
        parts = parts_of(model)
        self._section = rope_section(model)
        self.provenance = provenance
        self._model = model
        self._documents = documents
        self._token_budget = token_budget
        self._checkpointing = checkpointing
        self._max_length = int(provenance["max_length"])
        rows = sum(map(len, parts.layers[0].rows.values()))
        values = len(parts.layers) * (2 * parts.widths["neuron"] + rows)  # per document; those of heads are few
        self._most_documents = max(1, BATCH_VALUES // values)
        self.norms = torch.stack([column_norms(layer) for layer in parts.layers])  # (L, I)
        self.head_norms = torch.stack([head_norms(layer) for layer in parts.layers])  # (L, heads)
        self._lengths = _checked_lengths(model, map(self.ids, range(len(documents))), provenance)

    def ids(self, index: int) -> np.ndarray:
        """Token ids of a document, cut to the maximal length."""
        return np.asarray(self._documents[index])[: self._max_length]

    def tokens(self, documents: Iterable[int]) -> int:
        """Number of tokens of some documents, as cut."""
        return int(self._lengths[np.fromiter(documents, dtype=np.int64)].sum())

    def plan(self) -> list[Shard]:
        """Plan the shards of the corpus."""
        limits = {"token_budget": self._token_budget, "most_documents": self._most_documents}
        return plan_shards(self._lengths, section=self._section, **limits)

    def make(self, shard: Shard, progress: _Progress) -> Statistics:
        """Statistics of a shard, on the CPU."""
        statistics: Statistics | None = None
        start = 0
        while start < len(shard.documents):
            longest = int(self._lengths[shard.documents[start]])
            size = batch_size(longest, token_budget=self._token_budget, most_documents=self._most_documents)
            chosen = shard.documents[start : start + size]
            chosen = chosen[: together(self._lengths[chosen], self._section)]
            compute = partial(self._relevance, chosen)
            found = in_memory(compute, parts=len(chosen), length=longest, what=f"document {chosen[0]}")
            if found is None:
                self._token_budget = longest * (len(chosen) // 2)
                continue
            if statistics is None:
                statistics = _empty_statistics(found, self.norms, self.head_norms, self.provenance)
            # The pass has just freed far more memory than this takes.
            for site, values in found.sites.items():
                statistics.moments[site].update(values)
            statistics.active += found.active.sum(0).to(statistics.active.device)
            statistics.magnitude += found.magnitude.to(statistics.magnitude.device).double().sum(0)
            statistics.tokens += int(found.lengths.sum())
            start += len(chosen)
            progress.advance(self.tokens(chosen))
        assert statistics is not None  # a shard has a document
        statistics.corpus = corpus_fingerprint(self.ids(index) for index in shard.documents)
        # On the CPU from here on: a GPU may round differently, and shards must merge to the same bits everywhere.
        return statistics.to("cpu")

    def _relevance(self, indices: np.ndarray) -> DocumentRelevance:
        """Relevance of a batch, all of it finite."""
        input_ids, attention_mask = pad_batch([self.ids(index) for index in indices])
        found = document_relevance(
            self._model,
            input_ids,
            attention_mask,
            objective=self.provenance["objective"],
            rule=self.provenance["rule"],
            checkpointing=self._checkpointing,
            skip_first_tokens=int(self.provenance["skip_first_tokens"]),
        )
        finite = found.target.isfinite()
        for values in found.sites.values():
            finite &= values.isfinite().flatten(1).all(1)
        if not finite.all():
            index = indices[int((~finite).nonzero()[0])]
            raise CraneError(f"document {index}: its relevance is not finite; load the model in bfloat16 or float32")
        return found


def _empty_statistics(
    found: DocumentRelevance, norms: Tensor, head_norms: Tensor, provenance: dict[str, str]
) -> Statistics:
    device = "cpu" if found.neuron.device.type == "mps" else found.neuron.device  # MPS has no float64
    moments = {site: Moments(tuple(values.shape[1:]), device) for site, values in found.sites.items()}
    active = torch.zeros(found.active.shape[1:], dtype=torch.int64, device=device)
    magnitude = torch.zeros(active.shape, dtype=torch.float64, device=device)
    return Statistics(moments, active, magnitude, norms, head_norms, tokens=0, provenance=provenance)


def _checked_lengths(model: nn.Module, documents: Iterable[np.ndarray], provenance: dict[str, str]) -> np.ndarray:
    """Number of tokens of each document (N,), checked."""
    objective, skip = provenance["objective"], int(provenance["skip_first_tokens"])
    shortest = max(objective_named(objective).shortest, skip + 1)
    lengths = []
    for index, ids in enumerate(documents):
        length = len(ids)
        if length < shortest:
            needs = f"objective {objective!r} with skip_first_tokens {skip} needs at least {shortest}"
            raise CraneError(f"document {index}: has {length} tokens, but {needs}")
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            raise CraneError(f"document {index}: is an array {ids.shape} of {ids.dtype}; expected token ids (tokens,)")
        check_tokens(model, [ids], first=index)
        lengths.append(length)
    if not lengths:
        raise CraneError("there are no documents to compute statistics from; is the corpus empty?")
    return np.array(lengths)
