"""The command: run the benchmarks, show a table, write CSV and facts of the machine.

`python -m benchmarks.relevance --help`
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a file: the packages are a folder above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from benchmarks.gpu import measure_gpu
from benchmarks.measurement import Measurement, machine_facts, run_command
from benchmarks.memory import measure_memory
from benchmarks.processes import measure_processes
from benchmarks.speed import measure_speed, measure_vocabulary
from benchmarks.stream import measure_stream
from benchmarks.workloads import FULL, QUICK, Sizes
from crane_lib.errors import CraneError
from crane_lib.files import write_json
from crane_study.frames import write_frame

BENCHMARKS: dict[str, Callable[[Sizes], list[Measurement]]] = {
    "speed": measure_speed,
    "vocabulary": measure_vocabulary,
    "memory": measure_memory,
    "stream": measure_stream,
    "processes": measure_processes,
    "gpu": measure_gpu,
}
LOGGED_WIDTH = 120  # columns of a table that goes to a file
RESULTS = Path(__file__).resolve().parent / "results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def run(
    only: Annotated[
        list[str],
        typer.Option("--only", metavar="NAME", help=f"Run only this one; may be repeated: {', '.join(BENCHMARKS)}."),
    ] = [],  # noqa: B006 (typer copies it)
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, half a minute: shows that all runs, judges only agreement.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the results go.")] = RESULTS,
) -> None:
    """Time and memory of the relevance statistics, against two baselines in the same run.

    A is the authors' released procedure: one document at a time, a gradient for every parameter, all samples kept. B is
    the floor: a plain forward and backward pass over the same batches, without rules or statistics. Contestants take
    turns on one machine, and goals are on ratios. Use two quiet cores: about 12 minutes on a CPU.

    Writes relevance.csv (one row a measurement) and machine.json to DIR, both with the names of the benchmarks that
    were chosen if not all were, and with "quick" if they were tiny. benchmarks/README.md says what each row means.

    The exit code is 1 if numbers that must agree do not; a missed goal of time or memory only shows in the table.

    Examples: python -m benchmarks.relevance --quick;  python -m benchmarks.relevance --only speed --only memory
    """
    unknown = [name for name in only if name not in BENCHMARKS]
    if unknown:
        raise CraneError(f"--only {unknown[0]}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    sizes = QUICK if quick else FULL
    torch.set_num_threads(sizes.threads)
    transformers_logging.set_verbosity_error()
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else LOGGED_WIDTH)
    facts = machine_facts()
    found: list[Measurement] = []
    for name in [name for name in BENCHMARKS if not only or name in only]:
        start = time.perf_counter()
        rows = BENCHMARKS[name](sizes)
        facts.seconds[name] = round(time.perf_counter() - start, 1)
        console.print(_table(f"{name} ({facts.seconds[name]:.0f} s)", rows, sizes))
        found += rows
    suffix = "".join(f"-{name}" for name in [*only, *(["quick"] if quick else [])])
    write_frame(output / f"relevance{suffix}.csv", _frame(found, sizes))
    write_json(output / f"machine{suffix}.json", dataclasses.asdict(facts))
    console.print(f"{output / f'relevance{suffix}.csv'}\n{output / f'machine{suffix}.json'}")
    if any(row.exact and not row.met for row in found):
        raise CraneError("numbers that must agree do not: see the goals that are not met")


def _verdict(row: Measurement, sizes: Sizes) -> str:
    """True if the goal is met; goals of time and memory are for the full size only."""
    if row.met is None:
        return ""
    if not (sizes.full or row.exact):
        return "not judged"
    return "yes" if row.met else "no"


def _frame(rows: Sequence[Measurement], sizes: Sizes) -> pd.DataFrame:
    fields = ("benchmark", "what", "value", "unit", "low", "high", "goal")
    return pd.DataFrame(
        [{field: getattr(row, field) for field in fields} | {"met": _verdict(row, sizes)} for row in rows]
    )


def _table(title: str, rows: Sequence[Measurement], sizes: Sizes) -> Table:
    table = Table("what", "value", "unit", "lowest to highest", "goal", "met", title=title, title_justify="left")
    for row in rows:
        range_ = "" if math.isnan(row.low) else f"{row.low:.4g} to {row.high:.4g}"
        value = "" if math.isnan(row.value) else f"{row.value:.4g}"
        table.add_row(row.what, value, row.unit, range_, row.goal, _verdict(row, sizes))
    return table


if __name__ == "__main__":
    run_command(app)
