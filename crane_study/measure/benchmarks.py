"""MMLU, C-Eval and Belebele: their files in the schema they are published in, and their tasks for the harness.

The prompts are those of lm-evaluation-harness's own tasks of these names; a test holds them against each other. The
definitions stand here all the same, for the harness's own can only be read from the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from crane_lib.errors import CraneError
from crane_lib.files import sha256, write_json
from crane_study.frames import write_frame
from crane_study.hub import dataset_files
from crane_study.measure.questions import SUBJECT_MARK, task_name
from crane_study.profile import nearest

LETTERS = ["A", "B", "C", "D"]
ENDINGS = (".parquet", ".jsonl", ".json", ".csv")


@cache
def _chinese_names() -> dict[str, str]:
    """What C-Eval's subjects are called."""
    return yaml.safe_load((Path(__file__).parent / "ceval.yaml").read_text(encoding="utf-8"))


def _about(subject: str) -> str:
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


def _about_in_chinese(subject: str) -> str:
    return f"以下是中国关于{_chinese_names().get(subject, subject)}的单项选择题，请选出其中的正确答案。\n\n"


@dataclass(frozen=True)
class Benchmark:
    """One published benchmark of four-way questions.

    Parameters
    ----------
    dataset : where the hub has it
    asked, examples : its splits of questions and of worked examples
    columns : of its files; the last one holds the right answer, as one of `answers`
    prompt : template of a question, as the harness has it
    describe : what stands before the examples of a subject
    files : which of the hub's files are needed; ``{config}`` is the profile's
    """

    dataset: str
    asked: str
    examples: str
    columns: tuple[str, ...]
    answers: tuple[Any, ...]
    prompt: str
    target: str
    describe: Callable[[str], str]
    files: tuple[str, ...]


BENCHMARKS = {
    "mmlu": Benchmark(
        dataset="cais/mmlu",
        asked="test",
        examples="dev",
        columns=("question", "subject", "choices", "answer"),
        answers=(0, 1, 2, 3),
        prompt="{{question.strip()}}\n"
        + "\n".join(f"{letter}. {{{{choices[{number}]}}}}" for number, letter in enumerate(LETTERS))
        + "\nAnswer:",
        target="answer",
        describe=_about,
        files=("all/test-*.parquet", "all/dev-*.parquet"),
    ),
    "ceval": Benchmark(
        dataset="ceval/ceval-exam",
        asked="val",
        examples="dev",
        columns=("question", *LETTERS, "answer"),
        answers=tuple(LETTERS),
        prompt="{{question.strip()}}\n" + "\n".join(f"{letter}. {{{{{letter}}}}}" for letter in LETTERS) + "\n答案：",
        target="{{['A', 'B', 'C', 'D'].index(answer)}}",
        describe=_about_in_chinese,
        files=("*/val-*.parquet", "*/dev-*.parquet"),
    ),
    "belebele": Benchmark(
        dataset="facebook/belebele",
        asked="test",
        examples="test",
        columns=("flores_passage", "question", *(f"mc_answer{n}" for n in (1, 2, 3, 4)), "correct_answer_num"),
        answers=("1", "2", "3", "4"),
        prompt="P: {{flores_passage}}\nQ: {{question.strip()}}\n"
        + "\n".join(f"{letter}: {{{{mc_answer{number}}}}}" for number, letter in enumerate(LETTERS, start=1))
        + "\nAnswer:",
        target="{{['1', '2', '3', '4'].index(correct_answer_num)}}",
        describe=lambda subject: "",
        files=("data/{config}.jsonl",),
    ),
}


def read_benchmark(name: str, folder: Path, *, config: str) -> dict[str, dict[str, pd.DataFrame]]:
    """Questions and worked examples of every subject, from files in the benchmark's published schema.

    The files may lie as the hub has them or flat: MMLU's ``test`` and ``dev`` files hold all subjects (column
    ``subject``); C-Eval has a file a subject and split, in folders (``law/val-*.parquet``) or by name
    (``law_val.csv``); Belebele has one file a language (``vie_Latn.jsonl``). Parquet, JSON lines or CSV.

    Returns
    -------
    for each subject the frames ``asked`` and ``examples``; Belebele has one subject, its language

    Raises
    ------
    CraneError : no such folder or file, a missing column, an answer that is none; the file is named
    """
    benchmark = BENCHMARKS[name]
    if not folder.is_dir():
        raise CraneError(f"task {name}: {folder}: no such folder; put the benchmark's files there")
    read = _belebele if name == "belebele" else _by_subject
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for role, split in (("asked", benchmark.asked), ("examples", benchmark.examples)):
        for subject, frame in read(name, folder, split, config).items():
            found.setdefault(subject, {})[role] = frame
    for subject in found:
        if not re.fullmatch(r"\w[\w .,()&+-]*", subject):  # it becomes part of a file's name
            raise CraneError(f"task {name}: {folder}: {subject!r:.60} is no name of a subject; correct the file")
    return {subject: frames for subject, frames in sorted(found.items()) if "asked" in frames}


def _belebele(name: str, folder: Path, split: str, config: str) -> dict[str, pd.DataFrame]:
    files = [path for path in _files(folder) if config in path.relative_to(folder).with_suffix("").parts]
    if not files:
        raise CraneError(f"task {name}: {folder} has no {config}.jsonl (nor .parquet, .csv)")
    return {config: pd.concat([_read(name, path) for path in files], ignore_index=True)}


def _by_subject(name: str, folder: Path, split: str, config: str) -> dict[str, pd.DataFrame]:
    """Frames of a split, a subject, which a column or the file's place names."""
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
            frames.setdefault(_subject_of(path, folder, split), []).append(frame)
    return {subject: pd.concat(parts, ignore_index=True) for subject, parts in frames.items()}


def _subject_of(path: Path, folder: Path, split: str) -> str:
    """``law`` of ``law/val-00000-of-00001.parquet``, ``val/law_val.csv`` or ``law_val.jsonl``."""
    stem = re.sub(rf"(^|[_.-]){split}([_.-].*)?$", "", path.stem)
    return stem or (path.parent.name if path.parent != folder else "all")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file())


def _read(name: str, path: Path) -> pd.DataFrame:
    """A file's rows, checked, with the benchmark's columns only."""
    benchmark = BENCHMARKS[name]
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            # One object a line, or one list of objects.  No guessing of types: "1990" is a text.
            text = path.read_text(encoding="utf-8-sig")
            listed = text.lstrip().startswith("[")
            rows = json.loads(text) if listed else [json.loads(line) for line in text.split("\n") if line.strip()]
            frame = pd.DataFrame(rows)
    except (ValueError, OSError) as error:  # JSON, UTF-8 and Parquet errors are ValueErrors
        raise CraneError(f"task {name}: {path}: cannot be read ({' '.join(str(error).split())[:120]})") from error
    missing = [column for column in benchmark.columns if column not in frame]
    if missing:
        raise CraneError(
            f"task {name}: {path}: has no column {missing[0]!r}; expected {', '.join(benchmark.columns)}, "
            f"seen {', '.join(map(str, frame.columns))}"
        )
    frame = frame[list(benchmark.columns)].copy()
    if name == "mmlu":
        frame["choices"] = [_options(name, path, number, value) for number, value in enumerate(frame["choices"])]
    answer = benchmark.columns[-1]
    kind = type(benchmark.answers[0])
    for number, value in enumerate(frame[answer]):
        if str(value) not in map(str, benchmark.answers):
            expected = ", ".join(map(str, benchmark.answers))
            place = f"task {name}: {path}: row {number + 1}"
            raise CraneError(f"{place}: {answer} is {value!r}, expected one of {expected}")
    frame[answer] = [kind(value) for value in frame[answer]]
    return frame


def _options(name: str, path: Path, number: int, value: Any) -> list[str]:
    """The four options of a row; a CSV file holds them as a JSON list."""
    try:
        options = [str(option) for option in (json.loads(value) if isinstance(value, str) else value)]
    except (ValueError, TypeError) as error:
        raise CraneError(f"task {name}: {path}: row {number + 1}: choices is not a list ({value!r:.60})") from error
    if len(options) != len(LETTERS):
        raise CraneError(f"task {name}: {path}: row {number + 1}: has {len(options)} choices, expected {len(LETTERS)}")
    return options


def write_benchmark_tasks(folder: Path, benchmarks: Path, *, few_shot: int, delimiters: Mapping[str, str]) -> list[str]:
    """Write task definitions for the harness, one a language and subject.

    Parameters
    ----------
    benchmarks : folder of ``benchmarks.json`` and Parquet files, as the stage of that name wrote it
    delimiters : what stands between prompt and letter, a language (a space unless given, as in the harness)

    Returns
    -------
    names of the tasks
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for language, about in json.loads((benchmarks / "benchmarks.json").read_text(encoding="utf-8")).items():
        benchmark = BENCHMARKS[about["name"]]
        same = benchmark.asked == benchmark.examples
        for subject in about["subjects"]:
            name = f"{task_name(language)}{SUBJECT_MARK}{subject}"
            stem = (benchmarks / language / subject).resolve()
            files = {"asked": f"{stem}.asked.parquet"} | ({} if same else {"examples": f"{stem}.examples.parquet"})
            task = {
                "task": name,
                "dataset_path": "parquet",
                "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
                "test_split": "asked",
                # Of one split only, the harness leaves the question itself out of its examples.
                "fewshot_split": "asked" if same else "examples",
                "fewshot_config": {"sampler": "first_n"},
                "num_fewshot": few_shot,
                "output_type": "multiple_choice",
                "description": benchmark.describe(subject),
                "doc_to_text": benchmark.prompt,
                "doc_to_choice": LETTERS,
                "doc_to_target": benchmark.target,
                "target_delimiter": delimiters.get(language, " "),
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
                "metadata": {"version": 1.0},
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")
            names.append(name)
    return names


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
