"""MMLU, C-Eval and Belebele: their published files, and their tasks for the harness.

The prompts are those of lm-evaluation-harness's own tasks of these names, which can only be read from the hub; a test
compares them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict

from crane_lib.errors import CraneError
from crane_lib.files import sha256, write_json
from crane_study.data.user_files import TABLES, read_entries, split_name, whole
from crane_study.frames import write_frame
from crane_study.hub import dataset_files
from crane_study.measure.questions import SUBJECT_MARK, task_name, write_task
from crane_study.profile import nearest

BENCHMARKS_FILE = Path(__file__).with_name("benchmarks.yaml")
LETTERS = ["A", "B", "C", "D"]
LEAST_SUBJECTS = 10  # that are resampled as wholes; of fewer, an interval would hang on each one
_LIMITED = 17  # separates the random numbers of a limit from those of other draws


class QuestionSet(BaseModel):
    """One published benchmark of four-way questions: its files, and the harness's templates of its prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str  # name on the hub
    asked: str  # split of the questions
    examples: str  # split of the worked examples; if it is `asked`, a question is never an example for itself
    files: tuple[str, ...]  # patterns of the files to fetch from the hub; ``{config}`` is the profile's
    columns: tuple[str, ...]  # of its files; the last one is the correct answer,
    answers: tuple[int | str, ...]  # one of these
    prompt: str
    group: str  # column that names the questions that belong together, or ``subject``
    target: str  # template of the index of the correct option
    description: str  # text before the examples of a subject
    subjects: dict[str, str] = {}  # names of the subjects in the description; default: without underscores

    @property
    def one_split(self) -> bool:
        """Return whether examples are taken from the questions."""
        return self.asked == self.examples

    def groups(self, subject: str, asked: pd.DataFrame, *, subjects: int) -> list[str]:
        """Name the group of each question of a subject; empty where so few subjects are asked that each one counts."""
        if self.group != "subject":
            return [f"{self.group} {number}" for number in pd.factorize(asked[self.group])[0]]
        return [subject if subjects >= LEAST_SUBJECTS else ""] * len(asked)

    def describe(self, subject: str) -> str:
        """Text before the examples of a subject."""
        name = self.subjects.get(subject, subject) if self.subjects else subject.replace("_", " ")
        return self.description.format(subject=name)


_TABLE = yaml.safe_load(BENCHMARKS_FILE.read_text(encoding="utf-8"))
BENCHMARKS = {name: QuestionSet.model_validate(entry) for name, entry in _TABLE.items()}


def read_benchmark(name: str, folder: Path, *, config: str) -> dict[str, dict[str, pd.DataFrame]]:
    """Read questions (``asked``) and worked ``examples`` of every subject from a benchmark's published files.

    The files may be in folders as on the hub or all in one: MMLU's ``test`` and ``dev`` files contain all subjects
    (column ``subject``); C-Eval has one file per subject and split, in folders (``law/val-*.parquet``) or by name
    (``law_val.csv``); Belebele has one file per language (``vie_Latn.jsonl``). Parquet, JSON lines or CSV.
    """
    benchmark = BENCHMARKS[name]
    if not folder.is_dir():
        raise CraneError(f"task {name}: {folder}: no such folder; put the benchmark's files there")
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for role, split in (("asked", benchmark.asked), ("examples", benchmark.examples)):
        frames = _by_language(name, folder, config) if name == "belebele" else _by_subject(name, folder, split)
        for subject, frame in frames.items():
            found.setdefault(subject, {})[role] = frame
    for subject in found:
        if not re.fullmatch(r"\w[\w .,()&+-]*", subject):  # it becomes part of a file's name
            raise CraneError(f"task {name}: {folder}: {subject!r:.60} is not a valid name of a subject; correct it")
    return {subject: frames for subject, frames in sorted(found.items()) if "asked" in frames}


def _by_language(name: str, folder: Path, config: str) -> dict[str, pd.DataFrame]:
    files = [path for path in _files(folder) if config in (*path.relative_to(folder).parts[:-1], split_name(path)[0])]
    if not files:
        raise CraneError(f"task {name}: {folder} has no {config}.jsonl (nor .parquet, .csv)")
    return {config: pd.concat([_read(name, path) for path in files], ignore_index=True)}


def _by_subject(name: str, folder: Path, split: str) -> dict[str, pd.DataFrame]:
    """Frames of a split by subject, which is named by a column or by the file."""
    frames: dict[str, list[pd.DataFrame]] = {}
    chosen = [path for path in _files(folder) if split in re.split(r"[/_.-]", str(path.relative_to(folder)))]
    whole = [path for path in chosen if "all" in path.relative_to(folder).parts]
    if not chosen:
        raise CraneError(f"task {name}: {folder} has no {split} files (such as {split}.parquet, .jsonl or .csv)")
    for path in whole or chosen:
        frame = _read(name, path)
        if "subject" in frame:
            for subject, rows in frame.groupby("subject", sort=False):
                frames.setdefault(str(subject), []).append(rows)
        else:
            # law for law/val-00000-of-00001.parquet, val/law_val.csv and law_val.jsonl
            stem = re.sub(rf"(^|[_.-]){split}([_.-].*)?$", "", split_name(path)[0])
            frames.setdefault(stem or (path.parent.name if path.parent != folder else "all"), []).append(frame)
    return {subject: pd.concat(parts, ignore_index=True) for subject, parts in frames.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if split_name(path)[1] in TABLES and path.is_file())


def _read(name: str, path: Path) -> pd.DataFrame:
    """Read and check the rows of a file; only the benchmark's columns are kept."""
    benchmark = BENCHMARKS[name]
    texts = set(benchmark.columns[:-1]) - {"choices"}
    frame = pd.DataFrame(read_entries(path, f"task {name}:", partial(_row, texts=texts)), dtype=object)
    missing = [column for column in benchmark.columns if column not in frame]
    if missing:
        expected, seen = ", ".join(benchmark.columns), ", ".join(map(str, frame.columns))
        raise CraneError(f"task {name}: {path}: has no column {missing[0]!r}; expected {expected}, seen {seen}")
    frame = frame[list(benchmark.columns)].copy()
    answer = benchmark.columns[-1]
    known = {str(value): value for value in benchmark.answers}
    for number, value in enumerate(frame[answer], start=1):
        if str(value) not in known:
            wrong = f"{answer} is {value!r}, expected one of {', '.join(known)}"
            raise CraneError(f"task {name}: {path}: row {number}: {wrong}")
    frame[answer] = [known[str(value)] for value in frame[answer]]
    if name == "mmlu":
        frame["choices"] = [_choices(f"task {name}: {path}: row {n}", v) for n, v in enumerate(frame["choices"], 1)]
    return frame


def _row(entry: Any, *, texts: Set[str]) -> dict[str, Any]:
    """Return an entry of a file; the fields `texts` of it must be texts."""
    if not isinstance(entry, dict):
        raise ValueError(f"is not an object; seen {repr(entry)[:80]}")
    for name in texts & entry.keys():
        if not isinstance(entry[name], str):
            raise ValueError(f"{name} is {entry[name]!r}, expected a text")
        whole(entry[name])
    return entry


def _choices(place: str, value: Any) -> list[str]:
    """The four options of a row; a CSV file contains them as a JSON list."""
    try:
        options = [whole(option) for option in (json.loads(value) if isinstance(value, str) else value)]
    except (ValueError, TypeError) as error:
        raise CraneError(f"{place}: choices is not a list of texts ({repr(value)[:60]})") from error
    if len(options) != len(LETTERS):
        raise CraneError(f"{place}: has {len(options)} choices, expected {len(LETTERS)}")
    return options


def write_benchmark_tasks(folder: Path, benchmarks: Path, *, few_shot: int, delimiters: Mapping[str, str]) -> None:
    """Write one task definition per language and subject for the harness.

    `benchmarks` was written by `make_benchmarks`; a delimiter, the text between prompt and letter, is a space unless
    given, as in the harness.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for language, about in json.loads((benchmarks / "benchmarks.json").read_text(encoding="utf-8")).items():
        benchmark = BENCHMARKS[about["name"]]
        roles = ["asked"] if benchmark.one_split else ["asked", "examples"]
        for subject in about["subjects"]:
            write_task(
                folder,
                f"{task_name(language)}{SUBJECT_MARK}{subject}",
                files={role: benchmarks / language / f"{subject}.{role}.parquet" for role in roles},
                test_split="asked",
                fewshot_split=roles[-1],  # if this is one split, the harness does not use a question as its own example
                fewshot_config={"sampler": "first_n"},
                num_fewshot=few_shot,
                description=benchmark.describe(subject),
                doc_to_text=benchmark.prompt,
                doc_to_choice=LETTERS,
                doc_to_target=benchmark.target,
                target_delimiter=delimiters.get(language, " "),
            )


def benchmark_folder(task: Mapping[str, Any]) -> Path:
    """Return the folder of a task's files; those of the hub are fetched unless they are in its cache."""
    if task["path"] is not None:
        return Path(task["path"])
    benchmark = BENCHMARKS[task["name"]]
    patterns = [pattern.format(config=task["config"]) for pattern in benchmark.files]
    return dataset_files(task["dataset"] or benchmark.dataset, revision=task["revision"], patterns=patterns)


def read_task(task: Mapping[str, Any], *, few_shot: int) -> dict[str, dict[str, pd.DataFrame]]:
    """Read questions (``asked``) and worked examples of the subjects of a task."""
    name, source = task["name"], benchmark_folder(task)
    found = read_benchmark(name, source, config=task["config"])
    needed, wanted = few_shot + BENCHMARKS[name].one_split, task["subjects"] or list(found)
    for subject in wanted:
        if subject not in found:
            raise CraneError(f"task {name}: {source} has no subject {subject!r}; {nearest(subject, list(found))}")
        count = len(found[subject].get("examples", ()))
        if few_shot and count < needed:
            problem = f"{subject} has {count} rows to take {few_shot} examples from"
            raise CraneError(f"task {name}: {source}: {problem}; give it {needed} or set evaluation.few_shot")
    return {subject: found[subject] for subject in wanted}


def make_benchmarks(
    folder: Path, *, tasks: Mapping[str, Mapping[str, Any]], few_shot: int, random_seed: int = 0
) -> None:
    """Write benchmarks.json and, for each language and subject, its questions and its worked examples.

    `tasks` maps a language to the fields of the profile's task. Of more questions than its limit, some are drawn at
    random, in the same places for every language.
    """
    index = {}
    for language, task in tasks.items():
        found, benchmark = read_task(task, few_shot=few_shot), BENCHMARKS[task["name"]]
        for number, (subject, frames) in enumerate(found.items()):
            asked = frames["asked"]
            asked = asked.assign(group=benchmark.groups(subject, asked, subjects=len(found)))
            # A limit must leave enough examples in their split.
            limit = max(task["limit"] or len(asked), few_shot + 1 if benchmark.one_split else 0)
            order = np.random.default_rng([random_seed, _LIMITED, number]).permutation(len(asked))
            drawn = asked.iloc[np.sort(order[:limit])]
            write_frame(folder / language / f"{subject}.asked.parquet", drawn)
            if not benchmark.one_split and "examples" in frames:
                write_frame(folder / language / f"{subject}.examples.parquet", frames["examples"].assign(group=""))
        index[language] = {
            "name": task["name"],
            "subjects": list(found),
            "sha256": {path.name: sha256(path) for path in sorted((folder / language).glob("*.parquet"))},
        }
    write_json(folder / "benchmarks.json", index)
