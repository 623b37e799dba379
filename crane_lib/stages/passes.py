"""The relevance passes of one stage: every seed and the plain gradient, over every language, by one process or many."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_lib.models.loading import load_model, model_directory
from crane_lib.orphans import end_with
from crane_lib.progress import advancing, progress
from crane_lib.relevance import Statistics, fingerprint_weights, stream_statistics
from crane_lib.relevance.distributed import rank
from crane_lib.stages.texts import tokenized

GRADIENT = "gradient"
_ROOT = Path(__file__).resolve().parents[2]
_SECONDS_TO_END = 30.0
_PARENT_VARIABLE = "CRANE_PARENT"  # process that waits for the passes
_EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception): (?!$)")


@dataclass(frozen=True)
class Passes:
    """What is computed on what; plain values, so that other processes can be told."""

    corpus: str
    model: str
    languages: list[str]
    rule: str
    seeds: list[str]
    token_budget: int
    max_length: int
    device: str
    dtype: str
    trust_remote_code: bool
    checkpointing: bool

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, list[np.ndarray]]]:
        """Model, tokenizer, and the token ids of the documents of each language."""
        network, tokenizer = load_model(
            model_directory(Path(self.model)),
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )
        frame = pd.read_parquet(Path(self.corpus) / "documents.parquet")
        documents = {
            language: tokenized(frame, tokenizer, split="relevance", language=language, max_length=self.max_length)
            for language in self.languages
        }
        return network, tokenizer, documents

    def run(
        self, network: PreTrainedModel, documents: dict[str, list[np.ndarray]], *, scratch: Path | None
    ) -> Iterator[tuple[str, str, Statistics]]:
        """Name of each pass, language, and its statistics; shards lie in `scratch`, if it is given."""
        # The plain gradient is the rival of relevance that shares everything but its rules.
        passes = [(seed, seed, self.rule) for seed in self.seeds] + [(GRADIENT, self.seeds[0], "gradient")]
        total = len(passes) * sum(len(tokens) for tokens in documents.values())
        model_fingerprint = fingerprint_weights(network)
        with progress("Relevance", total) if rank() == 0 else nullcontext() as bar:
            for name, seed, rule in passes:
                for language, tokens in documents.items():
                    statistics = stream_statistics(
                        network,
                        tokens,
                        seed=seed,
                        rule=rule,
                        token_budget=self.token_budget,
                        max_length=self.max_length,
                        checkpointing=self.checkpointing,
                        folder=scratch / f"{name}.{language}" if scratch is not None else None,
                        model_fingerprint=model_fingerprint,
                        labels={"language": language},
                        progress=advancing(bar) if bar is not None else None,
                    )
                    yield name, language, statistics


def run_file(path: Path) -> None:
    """Do the passes that a file written by `run_in_processes` tells of; the shards stay beside it.

    The process ends when torchrun, or the process that wanted the passes, is gone.
    """
    end_with(os.getppid(), *map(int, filter(None, [os.environ.get(_PARENT_VARIABLE)])))
    passes = Passes(**read_json(path))
    network, _tokenizer, documents = passes.load()
    for _done in passes.run(network, documents, scratch=path.parent):
        pass


def run_in_processes(passes: Passes, *, count: int, scratch: Path) -> None:
    """Do the passes in `count` processes on this machine; all shards are in `scratch` afterwards.

    Raises
    ------
    CraneError : a process failed; the line is its own
    """
    file = scratch / "passes.json"
    write_json(file, asdict(passes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # Not the name of this machine: in a container it may be the name of no address.
    command += ["--local-addr", "127.0.0.1", f"--nproc-per-node={count}"]
    command += ["-m", "crane_lib.cli", "relevance-passes", str(file)]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    threads = str(max(1, torch.get_num_threads() // count))  # of this process, shared out
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path, _PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        _out, said = process.communicate()
    except BaseException:  # Ctrl-C above all: torchrun ends its processes when it is asked to, not when it is killed
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
    """What went wrong, from all that torchrun and its processes said."""
    for line in lines:
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    if any("(SIGKILL)" in line for line in lines):
        return f"one of the {count} processes of the pass was killed; was there too little memory?"
    exception = next((line for line in lines if _EXCEPTION.match(line)), "they did not say why")
    return f"the {count} processes of the pass failed: {exception}"
