"""Question answering through lm-evaluation-harness, with one task per language, evaluated under one mask after another.

The harness, its task objects, the model wrapper and all prompts are built once. A mask costs forward passes only.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.batches import rope_section
from crane_lib.errors import CraneError
from crane_study.data.user_files import read_questions
from crane_study.measure.likelihoods import Requests

TASK_PREFIX = "crane"
SUBJECT_MARK = "__"  # between language and subject in the name of a task


def task_name(language: str) -> str:
    """Name the task of a language in the harness."""
    return f"{TASK_PREFIX}_{language}"


def write_task(folder: Path, name: str, *, kind: str, files: Mapping[str, str], **fields: Any) -> None:
    """Write one task definition for the harness.

    `kind` is a loader of `datasets` ("json", "parquet"), `files` the path of each split.
    """
    task = {
        "task": name,
        "dataset_path": kind,
        "dataset_kwargs": {"data_files": dict(files), "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
        **fields,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")


def write_tasks(folder: Path, questions: Mapping[str, Path], *, delimiters: Mapping[str, str], chat: bool) -> None:
    """Write one task definition per language for the harness.

    A delimiter, the text between prompt and answer, is a space unless given. `chat` asks the bare question as a user's
    turn; otherwise the prompt is used, which ends in "Answer:".
    """
    folder.mkdir(parents=True, exist_ok=True)
    for language, path in questions.items():
        frame = read_questions(path)
        delimiter = delimiters.get(language, " ")
        # The harness drops its own delimiter when it applies a chat template, so the choices include theirs.
        choices = [[delimiter + option for option in options] for options in frame["options"]]
        text = frame["question" if chat else "prompt"]
        rows = pd.DataFrame({"text": text, "choices": choices, "gold": frame["gold"].astype(int)})
        data = folder / f"{language}.jsonl"
        rows.to_json(data, orient="records", lines=True, force_ascii=False)
        write_task(
            folder,
            task_name(language),
            kind="json",
            files={"test": str(data.resolve())},
            test_split="test",
            doc_to_text="{{text}}",
            doc_to_choice="choices",
            doc_to_target="gold",
            target_delimiter="",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and log messages of the harness and of datasets inside the block."""
    import datasets
    from tqdm import tqdm

    def silent(bar: Any, *arguments: Any, **options: Any) -> None:
        initialize(bar, *arguments, **{**options, "disable": True})

    # TQDM_DISABLE is read when tqdm is imported, and the harness's own argument overrides it.
    initialize = tqdm.__init__
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in ("lm_eval", "datasets", "lm-eval")}
    tqdm.__init__ = silent
    datasets.disable_progress_bars()
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        datasets.enable_progress_bars()
        tqdm.__init__ = initialize


class Harness:
    """A model and its tasks, ready to be evaluated under any number of masks.

    The harness renders and tokenizes prompts, examples and answers once. An evaluation then consists of forward passes
    (`crane_study.measure.likelihoods`).

    `tasks` is a folder of task definitions, named ``crane_<language>`` or ``crane_<language>__<subject>``; `chat` puts
    every prompt into the tokenizer's chat template; `random_seed` is of the draw of examples; `sample` is the number of
    questions to draw per language and the seed of that draw.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Path,
        *,
        batch_size: int,
        chat: bool,
        random_seed: int = 0,
        sample: tuple[int, int] | None = None,
    ) -> None:
        names = sorted(path.stem for path in tasks.glob(f"{TASK_PREFIX}_*.yaml"))
        if not names:
            raise CraneError(f"{tasks}: has no task definitions ({TASK_PREFIX}_*.yaml)")
        with _quiet():
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager

            # The default manager indexes every task of the harness, which takes many seconds.
            manager = TaskManager(include_defaults=False, include_path=str(tasks))
            loaded = manager.load(names)
            self._tasks = {name: loaded["tasks"][name] for name in names}
            self._model = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                add_bos_token=tokenizer.bos_token_id is not None,
                # Needed only if the tokenizer has no token to begin or end a text with.
                prefix_token_id=None if {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None} else 0,
            )
            for task in self._tasks.values():
                task.set_fewshot_seed(random_seed)
                task.build_all_requests(
                    apply_chat_template=chat, chat_template=self._model.apply_chat_template if chat else None
                )
        items = self._collect_items()
        if sample is not None:
            items = _sampled(items, *sample)
        every = [instance for task in self._tasks.values() for instance in task.instances]
        places = zip(items["first"], items["options"], strict=True)
        asked = [instance for first, options in places for instance in every[first : first + options]]
        self._items = items.assign(first=items["options"].cumsum() - items["options"])
        pairs, limit = [self._tokens(*instance.args) for instance in asked], self._model.max_length
        self.requests = Requests(pairs, batch_size=batch_size, max_length=limit, section=rope_section(model))
        if self.requests.cut:
            count = f"{self.requests.cut} of {self.requests.count} prompts"
            warnings.warn(f"{count} are longer than the model's {limit} tokens and lose their beginning", stacklevel=2)

    def _tokens(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and an answer, split as in the harness."""
        if context:
            return self._model._encode_pair(context, continuation)
        answer = self._model.tok_encode(continuation, add_special_tokens=False)
        prefix = self._model.prefix_token_id
        return ([prefix], answer) if answer[0] != prefix else (answer[:1], answer[1:])

    def _collect_items(self) -> pd.DataFrame:
        """One row per item: language, item, subject, first request, number of options and index of the correct one."""
        rows = []
        counts: dict[str, int] = {}
        start = 0
        for name, task in self._tasks.items():
            language, _, subject = name.removeprefix(f"{TASK_PREFIX}_").partition(SUBJECT_MARK)
            for _doc, instances in groupby(task.instances, key=lambda instance: instance.doc_id):
                group = list(instances)
                item = counts[language] = counts.get(language, -1) + 1
                gold = int(task.doc_to_target(group[0].doc))
                rows.append((language, item, subject, start, len(group), gold))
                start += len(group)
        return pd.DataFrame(rows, columns=["language", "item", "subject", "first", "options", "gold"])

    def accuracy(self) -> pd.DataFrame:
        """Evaluate every task on the model in its current state: one row per item.

        Columns: language, item (index), subject, correct (bool), margin (log-likelihood of the correct option minus
        that of the best other one, nats).
        """
        scores = self.requests.log_likelihoods(self._model.model)
        items = self._items
        if np.isnan(scores).any():  # argmax would choose the first of them
            raise CraneError(
                f"questions: {int(np.isnan(scores).sum())} of {len(scores)} log-likelihoods are NaN; the model's "
                "values overflow, use dtype: float32 or bfloat16"
            )
        width = int(items["options"].max())
        number = np.arange(width)
        exists = number < items["options"].to_numpy()[:, None]  # (items, options)
        table = np.where(exists, scores[np.where(exists, items["first"].to_numpy()[:, None] + number, 0)], -np.inf)
        gold = items["gold"].to_numpy()
        right = table[np.arange(len(items)), gold]
        others = np.where(number == gold[:, None], -np.inf, table).max(axis=1)
        found = {"correct": table.argmax(axis=1) == gold, "margin": right - others}
        return items[["language", "item", "subject"]].assign(**found)


def _sampled(items: pd.DataFrame, count: int, random_seed: int) -> pd.DataFrame:
    """Draw at most `count` items of each language and keep their order."""
    chosen = []
    for number, (_language, part) in enumerate(items.groupby("language", sort=False)):
        generator = np.random.default_rng([random_seed, number])
        chosen.append(part.iloc[np.sort(generator.choice(len(part), size=min(count, len(part)), replace=False))])
    return pd.concat(chosen).sort_index().reset_index(drop=True)
