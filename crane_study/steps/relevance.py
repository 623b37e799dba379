"""Step: relevance statistics of every language on one model, for every objective and for the plain gradient."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_lib.parallel import rank, world
from crane_lib.relevance import Statistics, document_relevance, fingerprint_weights, stream_statistics
from crane_lib.relevance.corpus import SHARD_BATCHES, SHARDS
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import parts_of
from crane_lib.scores import GRADIENT, statistics_file
from crane_study import ROOT
from crane_study.data.corpora import tokenized
from crane_study.data.partitions import COUNT, THIRDS, third
from crane_study.options import PassOptions
from crane_study.orphans import end_with
from crane_study.progress import advancing, progress

_EXAMPLES = 2  # documents per language whose relevance is kept token by token
_EXAMPLE_TOKENS = 48
_SINK_DOCUMENTS = 8  # per language, in which the shares of the first token are measured
_SECONDS_TO_END = 30.0
HALVES = (8, 4, 2)  # documents are divided by these into two disjoint parts of equal size, each within the next
_LEAST_OF_HALF, _LEAST_OF_THIRD = 8, 4  # documents of a part
Part = tuple[str, str]  # folder of its statistics, and what follows the language in their names; empty: all documents
_PARENT_VARIABLE = "CRANE_PARENT"  # id of the process that waits for the passes
_EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception): (?!$)")


def half_folder(relevance: Path, part: int, side: str) -> Path:
    """Folder with the statistics of one of the two disjoint parts (``a`` or ``b``) of 1 / `part` of the documents."""
    return relevance / "halves" / f"{part}{side}"


def divided(count: int, *, fewest: int) -> dict[Part, tuple[int, int]]:
    """Places at which parts of `count` documents begin and end: eighths, quarters, halves, thirds, and all of them.

    `fewest` is the number of documents of the language that has fewest: parts of too few are left out.
    """
    parts: dict[Part, tuple[int, int]] = {}
    for part in HALVES:
        if fewest // part >= _LEAST_OF_HALF:
            parts |= {
                (str(half_folder(Path(), part, side)), ""): (start, start + count // part)
                for side, start in (("a", 0), ("b", count // 2))
            }
    if fewest // COUNT >= _LEAST_OF_THIRD:
        ends = [number * count // COUNT for number in range(COUNT + 1)]
        parts |= {(THIRDS, third("", n)): (ends[n - 1], ends[n]) for n in range(1, COUNT + 1)}
    return {**parts, ("", ""): (0, count)}


def most_files(*, documents: int, languages: int, objectives: int) -> tuple[int, int]:
    """Count the files of statistics, all of one size, of the passes of one model: that stay, and at most at one time.

    On the way there are also the statistics between the places of `divided`, and the shards of one such piece.
    """
    parts = divided(documents, fewest=documents)
    places = sorted({place for ends in parts.values() for place in ends})
    results = languages * (2 * len(parts) + objectives - 1)  # the first objective and the plain gradient select
    pieces = languages * (2 * (len(places) - 1) + objectives - 1)
    longest = max(end - start for start, end in pairwise(places)) if objectives < 2 else documents
    return results, results + pieces + max(2 * SHARDS, longest // SHARD_BATCHES + 1)


def merged_parts(
    parts: Mapping[Part, tuple[int, int]], stream: Callable[[int, int], Statistics]
) -> Iterator[tuple[Part, Statistics]]:
    """Yield the statistics of every part; `stream` is asked once for all documents, from one place to the next."""
    growing: dict[Part, Statistics] = {}
    for start, end in pairwise(sorted({place for ends in parts.values() for place in ends})):
        found = stream(start, end)
        for part, (first, last) in parts.items():
            if not first <= start < last:
                continue
            if part in growing:
                growing[part].merge(found)
            else:
                growing[part] = deepcopy(found) if len(parts) > 1 else found
            if end == last:
                yield part, growing.pop(part)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Relevance passes over a corpus; plain values, because other processes read them from a file."""

    corpus: Path
    model: Path
    options: PassOptions
    checkpointing: bool = False

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, list[np.ndarray]]]:
        """Load the model, its tokenizer, and the token ids of the documents of each language."""
        network, tokenizer = self.options.loading.load(self.model)
        frame, length = pd.read_parquet(self.corpus / "documents.parquet"), self.options.max_length
        documents = {
            language: tokenized(frame, tokenizer, split="relevance", language=language, max_length=length)
            for language in self.options.languages
        }
        return network, tokenizer, documents

    def run(
        self, network: PreTrainedModel, documents: dict[str, list[np.ndarray]], *, scratch: Path | None
    ) -> Iterator[tuple[Path, Statistics]]:
        """Yield a file name and the statistics of every pass and language; shards are kept in `scratch` if it is given.

        The passes that select yield parts of the documents, too (`divided`). Their statistics are merged to those of
        all documents, so they cost no further pass.
        """
        options = self.options
        # The plain gradient shares everything with relevance except its rules.
        passes = [(objective, objective, options.rule) for objective in options.objectives]
        passes.append((GRADIENT, options.objectives[0], "gradient"))
        total = len(passes) * sum(len(text) for own in documents.values() for text in own)
        fewest = min(map(len, documents.values()))
        stream = partial(
            stream_statistics,
            network,
            token_budget=options.token_budget,
            max_length=options.max_length,
            skip_first_tokens=options.skip_first_tokens,
            checkpointing=self.checkpointing,
            model_fingerprint=fingerprint_weights(network),
        )
        with progress("Relevance (tokens)", total) if rank() == 0 else nullcontext() as bar:
            for (name, objective, rule), (language, tokens) in product(passes, documents.items()):
                one = partial(stream, objective=objective, rule=rule, labels={"language": language})
                order = np.random.default_rng(0).permutation(len(tokens))
                selects = name in (options.objectives[0], GRADIENT)
                parts = divided(len(tokens), fewest=fewest if selects else 0)
                shuffled = [tokens[place] for place in order] if len(parts) > 1 else tokens

                def between(
                    start: int, end: int, one: Any = one, chosen: Any = shuffled, name: str = f"{name}.{language}"
                ) -> Statistics:
                    kept = name if end - start == len(chosen) else f"{name}.{start}"
                    folder = scratch / kept if scratch is not None else None
                    return one(chosen[start:end], folder=folder, progress=advancing(bar) if bar is not None else None)

                for (folder, part), found in merged_parts(parts, between):
                    yield statistics_file(folder, name, language + part), found


def run_file(path: Path) -> None:
    """Run the passes described in a file of `run_in_processes`; the shards are kept in the folder of the file.

    The process ends when torchrun, or the process that asked for the passes, is gone.
    """
    end_with(os.getppid(), *map(int, filter(None, [os.environ.get(_PARENT_VARIABLE)])))
    passes = TypeAdapter(Passes).validate_python(read_json(path))
    network, _tokenizer, documents = passes.load()
    for _done in passes.run(network, documents, scratch=path.parent):
        pass


def run_in_processes(passes: Passes, *, count: int, scratch: Path) -> None:
    """Run the passes in `count` processes on this machine; all shards are in `scratch` afterwards.

    If a process fails, the message of the error is its own.
    """
    file = scratch / "passes.json"
    write_json(file, to_jsonable_python(passes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # Not the host name: in a container it may have no address.
    command += ["--local-addr", "127.0.0.1", f"--nproc-per-node={count}"]
    command += ["-m", "crane_run.cli", "relevance-passes", str(file)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = str(max(1, torch.get_num_threads() // count))  # of this process, divided
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path, _PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        _out, said = process.communicate()
    except BaseException:  # mostly Ctrl-C: torchrun ends its processes when terminated, not when killed
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    lines = said.splitlines()
    for line in lines:
        if "memory ran out" in line and "UserWarning" in line:
            warnings.warn(line.partition("UserWarning: ")[2], stacklevel=2)
    if process.returncode:
        raise CraneError(_reason(lines, count))


def _reason(lines: list[str], count: int) -> str:
    """Return the reason of a failure, from the output of torchrun and its processes."""
    own = next((line for line in lines if line.startswith("error: ")), None)
    if own is not None:
        return own.removeprefix("error: ")
    if any("(SIGKILL)" in line for line in lines):
        return f"one of the {count} processes of the pass was killed; was there too little memory?"
    exception = next((line for line in lines if _EXCEPTION.match(line)), "they did not say why")
    return f"the {count} processes of the pass failed: {exception}"


def make_relevance(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    options: PassOptions,
    checkpointing: bool = False,
    processes: int = 1,
    scratch: Path | None = None,
) -> None:
    """Write ``<objective>.<language>.safetensors``, ``gradient.<language>.safetensors`` and two JSON files.

    ``halves/`` and ``thirds/`` have the same of disjoint parts of the documents (`divided`), where there are enough.
    ``tokens.json`` has documents token by token, ``concentration.json`` the shares of first tokens and largest neurons.
    Under torchrun every process calls this and the first one writes; otherwise `processes` above 1 starts that many
    on this machine. Finished shards are kept in `scratch`, from which a later call continues.
    """
    passes = Passes(corpus=corpus, model=model, options=options, checkpointing=checkpointing)
    if processes > 1 and world() == 1:
        if scratch is None:
            raise CraneError(f"relevance in {processes} processes needs a scratch folder, for their shards")
        run_in_processes(passes, count=processes, scratch=scratch)  # makes every shard that is read below
    network, tokenizer, documents = passes.load()
    for name, statistics in passes.run(network, documents, scratch=scratch):
        if rank() == 0:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            statistics.save(folder / name)
    if rank() == 0:
        write_json(folder / "tokens.json", _examples(network, tokenizer, documents, options))
        shares = [
            concentration(network, tokens[:_SINK_DOCUMENTS], options, checkpointing=checkpointing)
            for tokens in documents.values()
        ]
        named = [{"language": language, **found} for language, found in zip(documents, shares, strict=True)]
        write_json(folder / "concentration.json", named)


def concentration(
    network: PreTrainedModel, documents: list[np.ndarray], options: PassOptions, *, checkpointing: bool = False
) -> dict[str, float]:
    """Shares of the summed |relevance| and |activation| at the first token and in the neurons with the largest sums.

    `largest` counts those: a hundred, or one in a hundred where there are fewer than 10,000. No token is skipped.
    """
    given: dict[str, Any] = {"objective": options.objectives[0], "rule": options.rule, "checkpointing": checkpointing}
    sums: dict[str, list[torch.Tensor]] = {"relevance": [], "activation": []}
    for document in documents:
        ids = torch.from_numpy(document)[None]
        sizes: dict[int, torch.Tensor] = {}

        def keep(
            index: int, _module: Any, args: tuple[torch.Tensor, ...], *, sizes: dict[int, torch.Tensor] = sizes
        ) -> None:
            size = args[0][0].detach().abs().cpu().double()  # (T, I)
            sizes[index] = torch.stack([size.sum(0), size[0]])

        with HookSet() as hooks:
            for index, layer in enumerate(parts_of(network).layers):
                hooks.before(layer.down, partial(keep, index))
            everywhere = document_relevance(network, ids, **given).abs_neuron[0].cpu().double()  # (L, I)
        later = document_relevance(network, ids, **given, skip_first_tokens=1).abs_neuron[0].cpu().double()
        sums["relevance"].append(torch.stack([everywhere, everywhere - later]))
        sums["activation"].append(torch.stack([sizes[index] for index in sorted(sizes)], dim=1))
    neurons = sums["relevance"][0][0].numel()
    largest = 100 if neurons >= 10_000 else max(1, neurons // 100)
    found: dict[str, float] = {"documents": len(documents), "tokens": sum(map(len, documents)), "largest": largest}
    for name, parts in sums.items():
        everywhere, first = torch.stack(parts).sum(0).flatten(1)
        total = everywhere.sum()
        found[f"{name}_first"] = float(first.sum() / total)
        found[f"{name}_largest"] = float(torch.topk(everywhere, largest)[0].sum() / total)
    return found


def _examples(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: dict[str, list[np.ndarray]],
    options: PassOptions,
) -> list[dict[str, Any]]:
    """First documents of each language with the relevance of their tokens under the first objective."""
    examples = []
    for language, tokens in documents.items():
        for document in tokens[:_EXAMPLES]:
            cut = torch.from_numpy(document[:_EXAMPLE_TOKENS])
            found = document_relevance(network, cut[None], objective=options.objectives[0], rule=options.rule)
            pieces, relevance = readable_tokens(tokenizer, cut.tolist(), found.token[0].tolist())
            examples.append({"language": language, "tokens": pieces, "relevance": relevance})
    return examples


def readable_tokens(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], relevance: list[float]
) -> tuple[list[str], list[float]]:
    """Texts and relevances of tokens; tokens that are single bytes of one character are joined and summed."""
    texts: list[str] = []
    sums: list[float] = []
    held: list[int] = []
    total = 0.0
    for place, (token, value) in enumerate(zip(tokens, relevance, strict=True), start=1):
        held.append(token)
        total += value
        text = str(tokenizer.decode(held))
        if "\ufffd" not in text or place == len(tokens):
            texts.append(text)
            sums.append(total)
            held, total = [], 0.0
    return texts, sums
