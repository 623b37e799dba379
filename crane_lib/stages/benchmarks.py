"""Stage: the questions of published benchmarks, from the hub, its cache, or a folder of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.evaluation.benchmarks import BENCHMARKS, read_benchmark
from crane_lib.files import sha256, write_frame, write_json
from crane_lib.models.hub import dataset_files
from crane_lib.profile import nearest


def benchmark_folder(task: Mapping[str, Any]) -> Path:
    """Where a task's files lie: the folder it names, else a copy of the hub's, fetched where it is not there yet."""
    if task["path"] is not None:
        return Path(task["path"])
    benchmark = BENCHMARKS[task["name"]]
    patterns = [pattern.format(config=task["config"]) for pattern in benchmark.files]
    return dataset_files(task["dataset"] or benchmark.dataset, revision=task["revision"], patterns=patterns)


def read_task(task: Mapping[str, Any], *, few_shot: int) -> dict[str, dict[str, pd.DataFrame]]:
    """Questions (``asked``) and worked examples of the subjects that a task chooses.

    Raises
    ------
    CraneError : as `read_benchmark`, or a subject is not there or has too few examples
    """
    name, source = task["name"], benchmark_folder(task)
    found = read_benchmark(name, source, config=task["config"])
    for subject in task["subjects"] or found:
        if subject not in found:
            raise CraneError(f"task {name}: {source} has no subject {subject!r}; {nearest(subject, list(found))}")
        examples = found[subject].get("examples")
        needed = few_shot + _same_split(name)  # a question is never an example of itself
        if few_shot and (examples is None or len(examples) < needed):
            count = 0 if examples is None else len(examples)
            raise CraneError(
                f"task {name}: {source}: {subject} has {count} rows to take {few_shot} examples from; "
                f"give it {needed} or set evaluation.few_shot"
            )
    return {subject: found[subject] for subject in task["subjects"] or found}


def _same_split(name: str) -> bool:
    return BENCHMARKS[name].asked == BENCHMARKS[name].examples


def make_benchmarks(folder: Path, *, tasks: Mapping[str, Mapping[str, Any]], few_shot: int) -> None:
    """Write benchmarks.json and, for each language and subject, its questions and its worked examples.

    Parameters
    ----------
    tasks : for each language name, path, dataset, revision, config, subjects (None: all), limit (questions a subject)
    """
    index = {}
    for language, task in tasks.items():
        name = task["name"]
        found = read_task(task, few_shot=few_shot)
        same = _same_split(name)
        for subject, frames in found.items():
            # Examples of the same split come from all of it, so a limit must leave them in.
            limit = max(task["limit"] or len(frames["asked"]), few_shot + 1 if same else 0)
            write_frame(folder / language / f"{subject}.asked.parquet", frames["asked"].head(limit))
            if not same and "examples" in frames:
                write_frame(folder / language / f"{subject}.examples.parquet", frames["examples"])
        index[language] = {
            "name": name,
            "subjects": list(found),
            "sha256": {
                path.name: sha256(path) for path in sorted((folder / language).iterdir()) if path.suffix == ".parquet"
            },
        }
    write_json(folder / "benchmarks.json", index)
