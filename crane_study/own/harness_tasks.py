"""Questions of a user, and tasks of lm-evaluation-harness by name, measured under one mask after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.batches import in_memory
from crane_lib.errors import CraneError
from crane_study.measure.questions import Harness, harness_model, quiet, write_tasks
from crane_study.own.measure import Measure
from crane_study.progress import SOON, progress

_COLUMNS = ["task", "language", "metric", "item", "value", "weight"]


def questions_measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, files: Mapping[str, Path], *, batch_size: int
) -> Measure:
    """Prepare four-way questions by language: ``accuracy``, and ``margin`` (nats) of the right option over the next."""
    with TemporaryDirectory() as folder:
        write_tasks(Path(folder), files, delimiters={}, chat=False)
        harness = Harness(model, tokenizer, Path(folder), batch_size=batch_size, chat=False)

    def measure() -> pd.DataFrame:
        found = harness.accuracy().rename(columns={"correct": "accuracy"})
        found["accuracy"] = found["accuracy"].astype(float)
        long = found.melt(["language", "item"], ["accuracy", "margin"], var_name="metric")
        return long.assign(task="questions", weight=1)[_COLUMNS]

    return measure


def tasks_measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    *,
    batch_size: int,
    folder: Path | None = None,
    limit: int = 0,
) -> Measure:
    """Prepare tasks of lm-evaluation-harness: every metric of theirs, for each question where it is a mean over them.

    `folder` has task definitions of the user's own (YAML), `limit` is of the first questions of each task (0: all). An
    unknown task, or one whose questions cannot be loaded, is a CraneError. Where memory runs out, a task is evaluated
    again in batches of half the size.
    """
    with quiet():
        loaded = _loaded(names, folder)
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(0)
        wrapped = harness_model(model, tokenizer, batch_size=batch_size)

    def evaluated() -> Any:
        from lm_eval.evaluator import evaluate

        try:
            return evaluate(wrapped, loaded, limit=limit or None, bootstrap_iters=0, verbosity="ERROR")
        except ValueError as error:  # such as a task that runs code
            raise CraneError(f"--tasks {','.join(names)}: {' '.join(str(error).split())[:160]}") from error

    def measure() -> pd.DataFrame:
        given = {"length": wrapped.max_length, "what": f"--tasks {','.join(names)}"}
        with quiet():
            while (found := in_memory(evaluated, parts=wrapped.batch_size_per_gpu, **given)) is None:
                wrapped.batch_size_per_gpu //= 2
        return pd.DataFrame(
            [row for name, task in loaded["tasks"].items() for row in _rows(name, task, found)], columns=_COLUMNS
        )

    return measure


def _loaded(names: Sequence[str], folder: Path | None) -> Any:
    """Load tasks from the user's folder, else from there and the harness, whose own index takes many seconds."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        if not folder.is_dir():
            raise CraneError(f"--include-path {folder}: there is no such folder")
        with suppress(Exception):
            return TaskManager(include_path=folder, include_defaults=False).load(list(names))
    try:
        with progress("Reading the list of tasks", delay=SOON):
            manager = TaskManager(include_path=folder)
        for name in names:
            if name not in manager.all_tasks:
                near = get_close_matches(name, manager.all_tasks, n=1)
                hint = f"did you mean {near[0]}?" if near else "lm-eval ls tasks names them"
                raise CraneError(f"--tasks {name}: lm-evaluation-harness has no such task; {hint}")
        return manager.load(list(names))
    except CraneError:
        raise
    except Exception as error:  # of the network, of the data set, of a task's own code
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise CraneError(f"--tasks {','.join(names)}: cannot be loaded ({reason})") from error


def _rows(name: str, task: Any, found: Any) -> list[tuple[Any, ...]]:
    """Rows of a task: one per question for means of numbers, one with item -1 for every other metric."""
    means = {metric for metric, how in task.aggregation().items() if getattr(how, "__name__", "") == "mean"}
    rows, samples = [], found["samples"][name]
    for key, whole in found["results"][name].items():
        metric, comma, kept = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        label = metric if kept == "none" else key
        asked = [one for one in samples if one["filter"] == kept]
        values = [one.get(metric) for one in asked]
        if metric in means and all(isinstance(value, Real) for value in values):
            rows += [(name, "", label, one["doc_id"], float(one[metric]), 1) for one in asked]
        elif isinstance(whole, Real):
            rows.append((name, "", label, -1, float(whole), 1))
    return rows
