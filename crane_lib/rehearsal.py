"""Rehearsal: a profile of published models run with made-up ones, through the same notebooks, tasks and code.

What differs from the real run is where things come from: folders in the layout of the hub's instead of the hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crane_lib import made_up
from crane_lib.errors import CraneError
from crane_lib.files import atomic, fingerprint, write_text
from crane_lib.pipeline.code import code_fingerprint
from crane_lib.profile import REHEARSAL_SUFFIX, Profile
from crane_lib.profile_hub import HubSource, Task

# What makes a run short, wherever the profile has such a value; everything else stays as the profile has it.
SMALL: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "rehearsal": True,
    "expected_seconds": {},
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
}
_DOCUMENTS = 80
_QUESTIONS = 8  # a subject
_SUBJECTS = {"mmlu": ("abstract_algebra", "world_religions"), "ceval": ("law", "logic")}


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values with changes put in, section by section."""
    merged = dict(values)
    for name, change in changes.items():
        inside = isinstance(change, dict) and change and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], change) if inside else change
    return merged


def rehearsal_profile(profile: Profile, artifacts: Path) -> Profile:
    """The profile of the rehearsal of a profile; what it runs on is written beside its results.

    Raises
    ------
    CraneError : the profile needs no rehearsal, or does not say the architecture
    """
    source = profile.source
    if not isinstance(source, HubSource):
        raise CraneError(f"--rehearse: profile {profile.name} downloads nothing; run it as it is")
    if "model_type" not in source.architecture:
        raise CraneError(
            f"--rehearse: profile {profile.name} does not say of what kind its models are; give source.architecture "
            "the keys of their config.json (model_type, hidden_size, ...)"
        )
    folder = artifacts / f"{profile.name}{REHEARSAL_SUFFIX}.material"
    _write_material(folder, profile, source)
    tasks = {
        language: {"path": str(folder / "tasks" / language), "subjects": None, "limit": None, "dataset": None}
        for language in profile.evaluation.tasks
    }
    texts = {
        language: {"file": str(folder / "texts" / f"{language}{text.file.suffix}")}
        if text.file
        else {"dataset": str(folder / "texts" / language)}
        for language, text in source.texts.items()
    }
    places: dict[str, Any] = {"base_model": {"id": str(folder / "base")}, "texts": texts}
    if source.chat_model is not None:
        places["chat_model"] = {"id": str(folder / "chat")}
    values = _merged(profile.resolved(), SMALL)
    values = _merged(values, {"source": places, "evaluation": {"tasks": tasks}})
    values["name"] = f"{profile.name}{REHEARSAL_SUFFIX}"
    values["description"] = f"REHEARSAL of {profile.name} with a small random model and made-up data"
    return Profile.model_validate(values)


def _write_material(folder: Path, profile: Profile, source: HubSource) -> None:
    """Models, corpora and benchmark files, unless they lie there already."""
    languages = list(profile.languages)
    key = fingerprint(
        {
            "profile": {"source": source.model_dump(mode="json"), "languages": languages},
            "tasks": {language: task.model_dump(mode="json") for language, task in profile.evaluation.tasks.items()},
            "code": code_fingerprint([__name__]),
        }
    )
    record = folder / "key"
    if record.is_file() and record.read_text(encoding="utf-8") == key:
        return
    with atomic(folder) as temporary:
        chat = temporary / "chat" if source.chat_model is not None else None
        made_up.write_models(temporary / "base", chat, architecture=source.architecture, languages=languages)
        for language, text in source.texts.items():
            place = temporary / "texts" / language
            if text.file:
                made_up.write_text_file(place.with_suffix(text.file.suffix), language, documents=_DOCUMENTS)
            else:
                made_up.write_corpus(
                    place, language, config=text.config, split=text.split, field=text.field, documents=_DOCUMENTS
                )
        for language, task in profile.evaluation.tasks.items():
            _write_task(temporary / "tasks" / language, language, task)
        write_text(temporary / "key", key)


def _write_task(folder: Path, language: str, task: Task) -> None:
    if task.name == "belebele":
        made_up.write_belebele(folder, config=task.config, language=language, questions=2 * _QUESTIONS)
        return
    subjects = task.subjects or _SUBJECTS[task.name]
    write = made_up.write_mmlu if task.name == "mmlu" else made_up.write_ceval
    write(folder, subjects=subjects, questions=_QUESTIONS)
