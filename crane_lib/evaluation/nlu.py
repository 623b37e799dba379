"""Question answering through lm-evaluation-harness: tasks of our own, one a language, evaluated mask after mask.

The harness, its task objects and the model wrapper are built once; each mask then costs forward passes only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.errors import CraneError

TASK_PREFIX = "crane"
_FIELDS = ("question", "options", "gold")


def task_name(language: str) -> str:
    """Name of a language's task in the harness."""
    return f"{TASK_PREFIX}_{language}"


def _checked_question(row: Any) -> dict[str, Any]:
    """The fields of one question; raises ValueError with what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("is not an object of question, options and gold")
    missing = [name for name in _FIELDS if name not in row]
    if missing:
        raise ValueError(f"has no field {missing[0]!r}; needs {', '.join(_FIELDS)}")
    question, options, gold = (row[name] for name in _FIELDS)
    prompt = row.get("prompt", question)
    if not all(isinstance(text, str) and text.strip() for text in (question, prompt)):
        raise ValueError("its question or prompt is not a text")
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o for o in options):
        raise ValueError("its options are not a list of two or more texts")
    if type(gold) is not int or not 0 <= gold < len(options):
        raise ValueError(f"gold is {gold!r}, expected the index of one of its {len(options)} options, from 0")
    return {"question": question, "prompt": prompt, "options": options, "gold": gold, "subject": row.get("subject", "")}


def read_questions(path: Path) -> pd.DataFrame:
    """Four-way (or n-way) questions from a JSON-lines file, checked.

    Returns
    -------
    frame of question, prompt (the question unless given), options (list of texts), gold (index) and subject

    Raises
    ------
    CraneError : no such file, not JSON lines, no questions, or a line that is not a question
    """
    if not path.is_file():
        raise CraneError(f"questions {path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CraneError(f"questions {path}: is not UTF-8 (byte {error.start}); convert it first") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_checked_question(json.loads(line)))
        except json.JSONDecodeError as error:
            raise CraneError(f"questions {path}: line {number}: is not JSON ({error})") from error
        except ValueError as error:
            raise CraneError(f"questions {path}: line {number}: {error}") from error
    if not rows:
        raise CraneError(f"questions {path}: has no questions")
    return pd.DataFrame(rows)


def write_tasks(folder: Path, questions: Mapping[str, Path], *, delimiters: Mapping[str, str], chat: bool) -> list[str]:
    """Write a harness task definition a language into `folder`.

    Parameters
    ----------
    delimiters : what stands between prompt and answer, a language (a space unless given)
    chat : ask the bare question as a user's turn; the base model is given the prompt that ends in "Answer:"

    Returns
    -------
    names of the tasks
    """
    folder.mkdir(parents=True, exist_ok=True)
    for language, path in questions.items():
        frame = read_questions(path)
        delimiter = delimiters.get(language, " ")
        # The harness drops its own delimiter where it applies a chat template, so the choices carry theirs.
        rows = pd.DataFrame(
            {
                "text": frame["question" if chat else "prompt"],
                "choices": [[delimiter + option for option in options] for options in frame["options"]],
                "gold": frame["gold"].astype(int),
            }
        )
        data = folder / f"{language}.jsonl"
        rows.to_json(data, orient="records", lines=True, force_ascii=False)
        task = {
            "task": task_name(language),
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data.resolve())}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
        (folder / f"{task_name(language)}.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")
    return [task_name(language) for language in questions]


@contextmanager
def _quiet() -> Any:
    """No progress bars and chatter of the harness and of datasets inside the block."""
    import datasets
    from tqdm import tqdm

    def silent(bar: Any, *arguments: Any, **options: Any) -> None:
        initialize(bar, *arguments, **{**options, "disable": True})

    # TQDM_DISABLE would be too late (tqdm reads it when it is imported) and give way to the harness's own argument.
    initialize = tqdm.__init__
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "lm-eval")]
    levels = [logger.level for logger in loggers]
    tqdm.__init__ = silent
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        datasets.enable_progress_bars()
        tqdm.__init__ = initialize


class Harness:
    """A model and its tasks, ready to be evaluated as often as there are masks."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Path,
        *,
        batch_size: int,
        chat: bool,
    ) -> None:
        with _quiet():
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager

            names = sorted(path.stem for path in tasks.glob(f"{TASK_PREFIX}_*.yaml"))
            if not names:
                raise CraneError(f"{tasks}: has no task definitions ({TASK_PREFIX}_*.yaml)")
            # The default manager indexes every task the harness ships, which takes many seconds.
            manager = TaskManager(include_defaults=False, include_path=str(tasks))
            self._tasks = manager.load(names)
            self._model = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                add_bos_token=tokenizer.bos_token_id is not None,
                # Only asked for where the tokenizer has no token of its own to begin or end a text with.
                prefix_token_id=None if {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None} else 0,
            )
        self._chat = chat

    def accuracy(self) -> pd.DataFrame:
        """Evaluate every task on the model as it is now.

        Returns
        -------
        frame an item: language, item (index), correct (bool)
        """
        from lm_eval.evaluator import evaluate

        with _quiet():
            result = evaluate(
                lm=self._model,
                task_dict=self._tasks,
                apply_chat_template=self._chat,
                bootstrap_iters=0,
                log_samples=True,
            )
        frames = []
        for name, samples in result["samples"].items():
            ordered = sorted(samples, key=lambda sample: sample["doc_id"])
            frames.append(
                pd.DataFrame(
                    {
                        "language": name.removeprefix(f"{TASK_PREFIX}_"),
                        "item": [sample["doc_id"] for sample in ordered],
                        "correct": [bool(np.isclose(sample["acc"], 1.0)) for sample in ordered],
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)
