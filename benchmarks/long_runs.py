"""Long runs: memory, progress and resuming over 100,000 documents of statistics and 1,000 masks.

`python -m benchmarks.long_runs --help`
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import typer

from benchmarks.masks import random_masks
from benchmarks.measurement import (
    MEGABYTE,
    ROOT,
    Measurement,
    PeakMemory,
    in_fresh_process,
    machine_facts,
    peak_memory,
    run_command,
)
from benchmarks.workloads import Workload, random_documents, random_model
from crane_lib.files import write_json
from crane_lib.nll import document_nll
from crane_lib.relevance import stream_statistics
from crane_study.frames import write_frame
from crane_study.options import DocumentOptions, Loading
from crane_study.progress import FILE_VARIABLE, advancing, progress
from crane_study.steps import masks as masks_step

SMALL = Workload(
    hidden=16, mlp=32, layers=2, heads=2, vocabulary=200, documents=1, shortest=8, longest=24, token_budget=512
)
LANGUAGES = ["en", "vi", "zh"]
WARM = 0.1  # share of the work after which memory counts as settled
STOPPED = 0.9  # share of the work that is done when a run is stopped
TOLD_AT = (0.25, 0.5, 0.75)  # shares of the work at which the time left is looked at
RESULTS = ROOT / "benchmarks" / "results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class _StoppedError(Exception):
    """Stands for the end of a process in the middle."""


@dataclass
class Watch:
    """Memory, progress and time left of one run, as the file that the runner reads tells them."""

    stop_at: float = 2.0  # share of the work after which the run is stopped
    shares: list[float] = field(default_factory=list)  # of the work, done at each look
    left: list[float] = field(default_factory=list)  # seconds, as told
    seconds: list[float] = field(default_factory=list)  # since the start
    peak: PeakMemory | None = None  # from the end of the warm-up on
    started: float = field(default_factory=time.perf_counter)
    _open: ExitStack = field(default_factory=ExitStack)

    def look(self) -> None:
        """Note where the run stands; raise where it is to stop."""
        state = json.loads(Path(os.environ[FILE_VARIABLE]).read_text(encoding="utf-8"))
        share = state["done"] / state["total"]
        self.shares.append(share)
        self.left.append(state["left"] if state["left"] is not None else np.nan)
        self.seconds.append(time.perf_counter() - self.started)
        if share >= WARM and self.peak is None:
            self.peak = self._open.enter_context(peak_memory())
        if share >= self.stop_at:
            raise _StoppedError

    def close(self) -> None:
        """Note the end of the run."""
        self.seconds.append(time.perf_counter() - self.started)
        self._open.close()

    def told(self, share: float) -> float:
        """Time left as told at a share of the work, over what it took from then on."""
        place = int(np.searchsorted(self.shares, share))
        return self.left[place] / (self.seconds[-1] - self.seconds[place])


@dataclass(frozen=True)
class LongRun:
    """A whole run, and one that was stopped at `STOPPED` of the work and went on."""

    seconds: float  # of the whole run
    growth: int  # bytes after the warm-up
    told: list[float]  # time left as told, over what it was, at `TOLD_AT`
    steady: bool  # whether the share that is done never fell
    kept: int  # files that the stopped run left
    resumed: float  # seconds until the work went on
    again: float  # seconds of a call after the end, which only reads
    written: int  # bytes of the results


Run = Callable[[Path, Callable[[], None]], None]  # gets a folder, and what it calls at each step


def long_statistics(documents: int, threads: int) -> LongRun:
    """Stream the statistics of short documents through a tiny model; finished shards are kept as files."""
    torch.set_num_threads(threads)
    model, corpus = random_model(SMALL), random_documents(SMALL, count=documents)

    def run(folder: Path, look: Callable[[], None]) -> None:
        with progress("Relevance", sum(map(len, corpus))) as bar:
            advance = advancing(bar)

            def report(done: int, total: int) -> None:
                advance(done, total)
                look()

            stream_statistics(model, corpus, token_budget=SMALL.token_budget, folder=folder, progress=report)

    return _measured(run, kept="shard-*", results="merged*")


def long_masks(masks: int, documents: int, threads: int) -> LongRun:
    """Measure the NLL of documents of three languages under masks of a tiny model; each result is kept as a file."""
    torch.set_num_threads(threads)
    model = random_model(SMALL)
    sets: list[masks_step.Mask] = [("", None), *(("base", chosen) for chosen in random_masks(model, masks))]
    texts = {language: random_documents(SMALL, count=documents) for language in LANGUAGES}
    labels: dict[str, Any] = {"profile": "long", "model_name": "base", "languages": LANGUAGES}
    options = DocumentOptions(
        **labels, loading=Loading(device="cpu", dtype="float32"), token_budget=4096, max_length=64
    )

    def run(folder: Path, look: Callable[[], None]) -> None:
        def watched(*given: Any, **named: Any) -> Any:
            look()
            return document_nll(*given, **named)

        (folder / "results").mkdir(exist_ok=True)
        with patch.object(masks_step, "document_nll", watched), patch.object(masks_step, "KEPT_SECONDS", 0.0):
            masks_step.measure_documents(
                folder / "results", model, texts, sets, options=options, scratch=folder / "kept"
            )

    return _measured(run, kept="kept/*.parquet", results="results/*")


def _measured(run: Run, *, kept: str, results: str) -> LongRun:
    """Measure a whole run, then one that is stopped and goes on, then a call after the end."""
    gc.collect()
    with ExitStack() as stack:
        name = stack.enter_context(TemporaryDirectory())
        stack.enter_context(patch.dict(os.environ, {FILE_VARIABLE: str(Path(name) / "progress")}))
        stack.enter_context(patch("crane_study.progress._INTERVAL", 0.0))  # every step is told
        first, second = Path(name) / "whole", Path(name) / "stopped"
        for folder in (first, second):
            folder.mkdir()
        whole, stopped = Watch(), Watch(stop_at=STOPPED)
        run(first, whole.look)
        whole.close()
        with suppress(_StoppedError):
            run(second, stopped.look)
        files = len(list(second.glob(kept)))
        resumed = Watch()
        run(second, resumed.look)
        again = Watch()
        run(second, again.look)
        again.close()
        written = sum(path.stat().st_size for path in second.glob(results))
    assert whole.peak is not None  # the whole run is longer than its warm-up
    return LongRun(
        seconds=whole.seconds[-1],
        growth=whole.peak.added,
        told=[whole.told(share) for share in TOLD_AT],
        steady=bool((np.diff(whole.shares) >= 0).all()),
        kept=files,
        resumed=resumed.seconds[0],
        again=again.seconds[-1],
        written=written,
    )


def rows(name: str, unit: str, few: tuple[int, LongRun], many: tuple[int, LongRun]) -> list[Measurement]:
    """Rows of a long run beside a tenth of it."""
    (fewer, short), (count, found) = few, many
    left = [
        Measurement(name, f"time left told at {at:.0%} / as it was", value, "times")
        for at, value in zip(TOLD_AT, found.told, strict=True)
    ]
    return [
        Measurement(name, unit, count, ""),
        Measurement(name, "time", found.seconds, "s"),
        Measurement(
            name,
            f"time of {count} / of {fewer}, for each of them",
            found.seconds / short.seconds * fewer / count,
            "times",
        ),
        Measurement(name, f"memory added after {WARM:.0%}", found.growth / MEGABYTE, "MB"),
        Measurement(name, f"memory added after {WARM:.0%}, {fewer}", short.growth / MEGABYTE, "MB"),
        Measurement(name, "results", found.written / MEGABYTE, "MB"),
        *left,
        Measurement(name, "the share done never falls", float(found.steady), "", goal=">= 1", exact=True),
        Measurement(name, f"files kept by a run stopped at {STOPPED:.0%}", found.kept, ""),
        Measurement(name, "time until a stopped run goes on", found.resumed, "s", goal="< 5"),
        Measurement(name, "time of a call after the end", found.again, "s"),
    ]


def measure(*, documents: int, masks: int, documents_masked: int, threads: int = 1) -> Iterator[list[Measurement]]:
    """Yield the rows of each long run beside a tenth of it, every one in a process of its own."""
    kinds: list[tuple[str, str, int, Callable[[int], LongRun]]] = [
        ("statistics", "documents", documents, lambda count: in_fresh_process(long_statistics, count, threads)),
        ("masks", "masks", masks, lambda count: in_fresh_process(long_masks, count, documents_masked, threads)),
    ]
    for name, unit, count, long_run in kinds:
        yield rows(name, unit, (count // 10, long_run(count // 10)), (count, long_run(count)))


@app.command()
def run(
    documents: Annotated[int, typer.Option(min=100, help="Documents of the statistics.")] = 100_000,
    masks: Annotated[int, typer.Option(min=200, help="Masks that are evaluated.")] = 1000,
    documents_masked: Annotated[int, typer.Option(min=2, help="Documents per language under each mask.")] = 300,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the results go.")] = RESULTS,
) -> None:
    """Memory, time left and resuming of 100,000 documents and 1,000 masks, on a tiny model; some minutes.

    Goals: a run that was stopped at 90 % goes on within 5 s. Writes long_runs.csv and long_runs-machine.json to DIR.
    """
    facts = machine_facts()
    frames = []
    for found in measure(documents=documents, masks=masks, documents_masked=documents_masked):
        frames.append(pd.DataFrame([{**vars(row), "met": "" if row.met is None else row.met} for row in found]))
        print(frames[-1][["benchmark", "what", "value", "unit", "goal", "met"]].to_string(index=False), flush=True)
    write_frame(output / "long_runs.csv", pd.concat(frames, ignore_index=True))
    write_json(output / "long_runs-machine.json", vars(facts))


if __name__ == "__main__":
    run_command(app)
