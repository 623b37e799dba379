"""Question answering through lm-evaluation-harness, with one task per language, evaluated under one mask after another.

The harness, its task objects, the model wrapper and all prompts are built once. A mask costs forward passes only.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.batches import check_tokens, rope_section
from crane_lib.errors import CraneError
from crane_study.data.user_files import read_questions
from crane_study.frames import write_frame
from crane_study.measure.likelihoods import Requests

TASK_PREFIX = "crane"
_LABELS = ["subject", "group"]
SUBJECT_MARK = "__"  # between language and subject in the name of a task


def task_name(language: str) -> str:
    """Name the task of a language in the harness."""
    return f"{TASK_PREFIX}_{language}"


def write_task(folder: Path, name: str, *, files: Mapping[str, Path], **fields: Any) -> None:
    """Write one task definition for the harness; `files` names the Parquet file of each split."""
    task = {
        "task": name,
        "dataset_kwargs": {split: str(path.resolve()) for split, path in files.items()},
        "output_type": "multiple_choice",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
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
        rows[_LABELS] = frame[_LABELS].astype(str)
        data = folder / f"{language}.parquet"  # JSON would be read with dates as times
        write_frame(data, rows)
        write_task(
            folder,
            task_name(language),
            files={"test": data},
            test_split="test",
            doc_to_text="text",  # the column; a template of digits only would be evaluated as Python
            doc_to_choice="choices",
            doc_to_target="gold",
            target_delimiter="",
        )


def _tables(**files: str) -> Mapping[str, Any]:
    """Read the Parquet files of the splits; `load_dataset` would take "[3]" or "*" in a path for a pattern."""
    from datasets import Dataset

    return {split: Dataset(pq.read_table(pa.memory_map(path))) for split, path in files.items()}


@contextmanager
def quiet() -> Iterator[None]:
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


def harness_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int) -> Any:
    """Wrap a loaded model for the harness."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        add_bos_token=tokenizer.bos_token_id is not None,
        # Needed only if the tokenizer has no token to begin or end a text with.
        prefix_token_id=None if {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None} else 0,
    )


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
        with quiet():
            from lm_eval.api.task import ConfigurableTask

            texts = {name: (tasks / f"{name}.yaml").read_text(encoding="utf-8") for name in names}
            configs = {name: yaml.safe_load(text) | {"custom_dataset": _tables} for name, text in texts.items()}
            self._tasks = {name: ConfigurableTask(config=config) for name, config in configs.items()}
            self._model = harness_model(model, tokenizer, batch_size=batch_size)
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
        prompt, limit = asked[0].args[0], self._model.max_length
        bare, whole = (self._model.tok_encode(prompt, add_special_tokens=special) for special in (False, None))
        self._opening = whole[: next(n for n in range(len(whole)) if whole[n : n + len(bare)] == bare)]
        pairs = [pair for item in self._items.itertuples() for pair in self._item_tokens(item, asked)]
        check_tokens(model, [(context + rest)[-limit:] for context, rest in pairs], what="question and answer")
        self.requests = Requests(pairs, batch_size=batch_size, max_length=limit, section=rope_section(model))
        if self.requests.cut:
            count = f"{self.requests.cut} of {self.requests.count} prompts"
            warnings.warn(f"{count} are longer than the model's {limit} tokens and lose their beginning", stacklevel=2)

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text with what the tokenizer puts before it, but not with an end token after it."""
        ids = self._model.tok_encode(text, add_special_tokens=False)
        bos = self._model.tokenizer.bos_token
        return ids if bos and text.startswith(bos) else self._opening + ids

    def _item_tokens(self, item: Any, asked: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
        """Token ids of prompt and answer for every option of an item.

        The answer's tokens are those after the prompt's own, as in the harness. Where an option merges with the end of
        the prompt, the split moves before the merged token, in all options, so that every one counts the same text.
        """
        requests = [instance.args for instance in asked[item.first : item.first + item.options]]
        wholes = [self._encode(context + answer) for context, answer in requests]
        # The harness, too, counts spaces at the end of a prompt as part of the answer.
        every = [self._encode(requests[0][0].rstrip()), *wholes]
        shared = next((n for n, ids in enumerate(zip(*every, strict=False)) if len({*ids}) > 1), min(map(len, every)))
        context = wholes[0][:shared] or [self._model.prefix_token_id]
        answers = [whole[shared:] for whole in wholes]
        for number, answer in enumerate(answers):
            problem = ""
            if not answer:
                problem = f"option {number + 1} adds no token to the prompt"
            elif answers.index(answer) < number:
                problem = f"options {answers.index(answer) + 1} and {number + 1} have the same tokens"
            elif len(answer) > self._model.max_length:
                problem = f"option {number + 1} has {len(answer)} tokens, the model reads {self._model.max_length}"
            if problem:
                place = f"question {item.item + 1} in {item.language!r}{f' ({item.subject})' if item.subject else ''}"
                raise CraneError(f"questions: {place}: {problem} ({requests[number][1][:60]!r}); change or remove it")
        return [(context, answer) for answer in answers]

    def _collect_items(self) -> pd.DataFrame:
        """One row per item: language, item, subject, group, first request, number of options, index of the right one"""
        rows = []
        counts: dict[str, int] = {}
        start = 0
        for name, task in self._tasks.items():
            language, _, subject = name.removeprefix(f"{TASK_PREFIX}_").partition(SUBJECT_MARK)
            for _doc, instances in groupby(task.instances, key=lambda instance: instance.doc_id):
                group = list(instances)
                item = counts[language] = counts.get(language, -1) + 1
                gold = int(task.doc_to_target(group[0].doc))
                own, together = (group[0].doc.get(name, "") for name in _LABELS)
                rows.append((language, item, subject or own, together, start, len(group), gold))
                start += len(group)
        return pd.DataFrame(rows, columns=["language", "item", *_LABELS, "first", "options", "gold"])

    def accuracy(self) -> pd.DataFrame:
        """Evaluate every task on the model in its current state: one row per item.

        Columns: language, item (index), subject, group, correct (bool), margin (log-likelihood of the correct option
        minus that of the best other one, nats).
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
        return items[["language", "item", *_LABELS]].assign(**found)


def _sampled(items: pd.DataFrame, count: int, random_seed: int) -> pd.DataFrame:
    """Draw at most `count` items of each language and keep their order; the same ones where the groups are the same."""
    chosen, parallel = [], len(set(items.groupby("language")["group"].agg(tuple))) == 1
    for number, (_language, part) in enumerate(items.groupby("language", sort=False)):
        generator = np.random.default_rng([random_seed, 0 if parallel else number])
        chosen.append(part.iloc[np.sort(generator.choice(len(part), size=min(count, len(part)), replace=False))])
    return pd.concat(chosen).sort_index().reset_index(drop=True)
