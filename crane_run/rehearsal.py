"""Rehearsal: a profile of published models run with made-up ones, in folders that have the layout of the hub."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, write_text
from crane_study.fingerprints import code_fingerprint
from crane_study.measure.benchmarks import LETTERS
from crane_study.profile import REHEARSAL_SUFFIX, HubSource, Profile, load_profile
from crane_study.training import CHAT_TEMPLATE, train_tokenizer

_SYLLABLES = {
    "zh": list("天地人山水火木金土日月星风云雨雪花草树鸟鱼马牛羊门路城河海石"),
    "vi": ["đá", "sông", "cầu", "xám", "mưa", "nắng", "trời", "đất", "cây", "lá", "phố", "biển", "núi", "gió", "trăng"],
}
_LATIN = [a + b for a in "bdfklmnprst" for b in "aeiou"]
_WORDS = 150
_HEADS = 4
_LONGEST = 2048  # tokens


class Writer:
    """Sentences of made-up words of one language, the frequent ones far more often than the others."""

    def __init__(self, language: str) -> None:
        self._generator = np.random.default_rng(zlib.crc32(language.encode()))
        self._blank = "" if language == "zh" else " "
        self._stop = "。" if language == "zh" else ". "
        parts = _SYLLABLES.get(language, _LATIN)
        made = ["".join(self._generator.choice(parts, size=1 + int(n % 3))) for n in range(_WORDS)]
        self._vocabulary = list(dict.fromkeys(made))
        weights = 1.0 / np.arange(1, len(self._vocabulary) + 1)
        self._weights = weights / weights.sum()

    def words(self, count: int) -> str:
        """`count` words, without a stop."""
        return self._blank.join(self._generator.choice(self._vocabulary, size=count, p=self._weights))

    def text(self, sentences: int) -> str:
        """A document."""
        return self._stop.join(self.words(int(self._generator.integers(5, 10))) for _ in range(sentences)) + "."

    def right(self) -> int:
        """Index of a right answer."""
        return int(self._generator.integers(len(LETTERS)))

    def choices(self, words: int) -> list[str]:
        """Answers to choose from."""
        return [self.words(words) for _ in LETTERS]


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines or Parquet, by the ending of the path."""
    if path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_parquet(path, index=False)


def write_corpus(folder: Path, language: str, *, config: str | None, split: str, field: str, documents: int) -> None:
    """Write a data set in the layout of the hub: a card (configuration, split, files) and four files of JSON lines."""
    writer = Writer(language)
    for shard in range(4):
        rows = [{field: writer.text(4), "url": f"made-up/{shard}/{n}"} for n in range(documents // 4)]
        _write_rows(folder / "files" / f"{split}.{shard:05d}-of-00004.jsonl", rows)
    files = [{"split": split, "path": "files/*.jsonl"}]
    card = yaml.safe_dump({"configs": [{"config_name": config or "default", "data_files": files}]})
    write_text(folder / "README.md", f"---\n{card}---\n")


def write_text_file(path: Path, language: str, *, documents: int) -> None:
    """Write a user's file of texts, as JSON lines."""
    writer = Writer(language)
    _write_rows(path, [{"text": writer.text(4)} for _ in range(documents)])


def write_mmlu(folder: Path, *, subjects: Sequence[str], questions: int) -> None:
    """Write questions in the schema of cais/mmlu."""
    writer = Writer("en")

    def row(subject: str) -> dict[str, Any]:
        question, choices = writer.words(8) + "?", writer.choices(2)
        return {"question": question, "subject": subject, "choices": choices, "answer": writer.right()}

    for split, count in (("dev", 5), ("test", questions)):
        rows = [row(subject) for subject in subjects for _ in range(count)]
        _write_rows(folder / "all" / f"{split}-00000-of-00001.parquet", rows)


def write_ceval(folder: Path, *, subjects: Sequence[str], questions: int) -> None:
    """Write questions in the schema of ceval/ceval-exam."""
    writer = Writer("zh")

    def row(number: int, split: str) -> dict[str, Any]:
        asked = {"id": number, "question": writer.words(8) + "____"}
        asked |= dict(zip(LETTERS, writer.choices(2), strict=True))
        return asked | {"answer": LETTERS[writer.right()], "explanation": writer.words(5) if split == "dev" else ""}

    for subject in subjects:
        for split, count in (("dev", 5), ("val", questions)):
            rows = [row(number, split) for number in range(count)]
            _write_rows(folder / subject / f"{split}-00000-of-00001.parquet", rows)


def write_belebele(folder: Path, *, config: str, language: str, questions: int) -> None:
    """Write questions in the schema of facebook/belebele."""
    writer = Writer(language)
    rows = [
        {
            "link": f"made-up/{number}",
            "question_number": 1 + number % 2,
            "flores_passage": writer.text(3),
            "question": writer.words(7) + "?",
            **{f"mc_answer{n}": text for n, text in enumerate(writer.choices(3), start=1)},
            "correct_answer_num": str(1 + writer.right()),
            "dialect": config,
            "ds": "2023-05-01",
        }
        for number in range(questions)
    ]
    _write_rows(folder / "data" / f"{config}.jsonl", rows)


def _scaled_down(architecture: Mapping[str, Any], *, vocabulary: int) -> dict[str, Any]:
    """Shrink a real model's config.json to a small model of the same kind; what is specific to the kind stays."""
    heads = int(architecture.get("num_attention_heads", _HEADS))
    keys = int(architecture.get("num_key_value_heads", heads))
    hidden = int(architecture.get("hidden_size", 4096))
    wide = int(architecture.get("intermediate_size", 4 * hidden))
    small = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 8 * max(1, round(64 * wide / hidden / 8)),
        "num_attention_heads": _HEADS,
        "num_key_value_heads": max(1, _HEADS * keys // heads),
        "vocab_size": vocabulary,
        "max_position_embeddings": _LONGEST,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "initializer_range": 0.2,  # with 0.02 every prediction of so small a model is the same
    }
    few = {"head_dim": 16, "moe_intermediate_size": 8, "num_experts": 8, "num_experts_per_tok": 2}
    return {**architecture, **small, **{name: size for name, size in few.items() if name in architecture}}


def write_models(base: Path, chat: Path | None, *, architecture: Mapping[str, Any], languages: Sequence[str]) -> None:
    """Write a small base model with its own tokenizer; the chat model is near it and has a chat template."""
    texts = [Writer(language).text(400) for language in languages]
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(texts, vocabulary=800, max_length=_LONGEST)
    # More rows than tokens, as real models have; transformers may add tokens that a family's tokenizer must have.
    rows = 64 * (len(tokenizer) // 64 + 1)
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        config = AutoConfig.for_model(**_scaled_down(architecture, vocabulary=rows))
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
        if chat is None:
            return
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * float(parameter.std(correction=0)), alpha=0.1)
    tokenizer.chat_template = CHAT_TEMPLATE
    model.save_pretrained(chat)
    tokenizer.save_pretrained(chat)


# Values that make a run short, where the profile has them; everything else stays as the profile has it.
_SMALL: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "rehearsal": True,
    "calibration_seconds": None,
    "needs": {},
    "relevance": {"token_budget": 1024, "max_length": 96, "processes": 1},
    "source": {"relevance_documents": 24, "perplexity_documents": 6, "sampling": {"shards": 3, "window": 16}},
    "controls": {
        "budgets": [0.02, 0.1, 0.5],
        "question_budgets": [0.1, 0.5],
        "draws": 2,
        "documents": 6,
        "questions": 12,
    },
    "evaluation": {"batch_size": 32},
    # Offline, whoever judges the real run: an endpoint is paid for, and a rehearsal's answers are nothing to judge.
    "open_ended": {"max_new_tokens": 6, "batch_size": 72, "random_draws": 1, "judge": "offline"},
    "ground_truth": {"documents": 4},
    "steering": {"prompts": 4, "gains": [3], "additions": [2], "pushes": [1], "depths": [0.5], "max_new_tokens": 4},
}
_DOCUMENTS = 80
_QUESTIONS = 8  # per subject
_SUBJECTS: dict[str, Sequence[str]] = {"mmlu": ("abstract_algebra", "world_religions"), "ceval": ("law", "logic")}


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge changes into values, section by section; an empty section replaces the one that was there."""

    def new(name: str, change: Any) -> Any:
        inside = isinstance(change, dict) and change and isinstance(values.get(name), dict)
        return _merged(values[name], change) if inside else change

    return values | {name: new(name, change) for name, change in changes.items()}


def rehearsal_profile(profile: Profile, artifacts: Path) -> Profile:
    """Make the profile of a rehearsal, and write the models and texts that it runs on next to its results."""
    source = profile.source
    if not isinstance(source, HubSource):
        raise CraneError(f"--rehearse: profile {profile.name} downloads nothing; run it as it is")
    if "model_type" not in source.architecture:
        raise CraneError(
            f"--rehearse: profile {profile.name} does not say of what kind its models are; give source.architecture "
            "the keys of their config.json (model_type, hidden_size, ...)"
        )
    name = f"{profile.name}{REHEARSAL_SUFFIX}"
    folder = artifacts / f"{name}.material"
    _write_material(folder, profile, source)
    given = {"subjects": None, "limit": None, "dataset": None}
    tasks = {language: {"path": str(folder / "tasks" / language), **given} for language in profile.evaluation.tasks}
    texts = {}
    for language, text in source.texts.items():
        place = str(folder / "texts" / language)
        texts[language] = {"file": f"{place}.jsonl"} if text.file else {"dataset": place}
    places: dict[str, Any] = {"base_model": {"id": str(folder / "base")}, "texts": texts}
    if source.chat_model is not None:
        places["chat_model"] = {"id": str(folder / "chat")}
    description = f"REHEARSAL of {profile.name} with a small random model and made-up data"
    # About as long as smoke, whose models are as small.
    changes: dict[str, Any] = {"expected_seconds": load_profile("smoke").expected_seconds}
    changes |= {"name": name, "description": description, "source": places, "evaluation": {"tasks": tasks}}
    return Profile.model_validate(_merged(_merged(profile.resolved(), _SMALL), changes))


def _write_material(folder: Path, profile: Profile, source: HubSource) -> None:
    """Write models, corpora and benchmark files, unless they are there already."""
    languages, tasks = list(profile.languages), profile.evaluation.tasks
    given = {"source": source.model_dump(mode="json"), "languages": languages}
    given["tasks"] = {language: task.model_dump(mode="json") for language, task in tasks.items()}
    key = fingerprint({**given, "code": code_fingerprint([__name__])})
    record = folder / "key"
    if record.is_file() and record.read_text(encoding="utf-8") == key:
        return
    with atomic(folder) as temporary:
        chat = temporary / "chat" if source.chat_model is not None else None
        write_models(temporary / "base", chat, architecture=source.architecture, languages=languages)
        for language, text in source.texts.items():
            place = temporary / "texts" / language
            if text.file:
                write_text_file(place.with_suffix(".jsonl"), language, documents=_DOCUMENTS)
            else:
                split, field = text.split, text.field
                write_corpus(place, language, config=text.config, split=split, field=field, documents=_DOCUMENTS)
        for language, task in tasks.items():
            place = temporary / "tasks" / language
            subjects: Sequence[str] = task.subjects or _SUBJECTS.get(task.name, ())
            if task.name == "belebele":
                write_belebele(place, config=task.config, language=language, questions=2 * _QUESTIONS)
            elif task.name == "ceval":
                write_ceval(place, subjects=subjects, questions=_QUESTIONS)
            else:
                write_mmlu(place, subjects=subjects, questions=_QUESTIONS)
        write_text(temporary / "key", key)
