"""Stages: what each mask does to perplexity and to question answering, on one model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from crane_lib.evaluation.benchmarks import write_benchmark_tasks
from crane_lib.evaluation.nlu import Harness, write_tasks
from crane_lib.evaluation.perplexity import document_nll
from crane_lib.evaluation.rows import COLUMNS, accuracy_row, mask_labels, perplexity_rows
from crane_lib.files import write_frame
from crane_lib.models.loading import load_model, model_directory
from crane_lib.neurons import read_neuron_sets
from crane_lib.relevance.distributed import rank
from crane_lib.stages.evaluations import Mask, evaluate_masks
from crane_lib.stages.texts import tokenized


def masks_of(
    selections: dict[str, Path], methods: dict[str, list[str]] | None = None, *, draws: int | None = None
) -> list[Mask]:
    """The unmasked model, and every set of the folders.

    Parameters
    ----------
    selections : for each model that sets were selected on their folder
    methods : for each of them the methods to mask, all of them if None
    draws : so many of the random sets, all of them if None
    """
    masks: list[Mask] = [("", None)]
    for selected_on, folder in selections.items():
        for path in sorted(folder.glob("*@*.json")):
            method = path.stem.partition("@")[0]
            if methods is None or method in methods[selected_on]:
                sets = read_neuron_sets(path)
                masks += [(selected_on, item) for item in sets if draws is None or item.random_seed < draws]
    return masks


def _named(masks: list[Mask], labels: dict[str, Any]) -> list[dict[str, Any]]:
    """Columns that name each mask."""
    return [{**labels, **mask_labels(neurons, selected_on=selected_on)} for selected_on, neurons in masks]


def measure_documents(
    folder: Path,
    network: PreTrainedModel,
    documents: dict[str, list[np.ndarray]],
    masks: list[Mask],
    *,
    labels: dict[str, Any],
    token_budget: int,
    numbers: dict[str, list[int]] | None = None,
    scratch: Path | None = None,
) -> None:
    """Write rows.csv and documents.parquet (NLL and tokens of every document under every mask).

    Parameters
    ----------
    numbers : numbers of the documents, where they are some of more; else they are counted from 0
    scratch : folder where finished masks are kept, from where a later call goes on
    """

    def evaluate() -> pd.DataFrame:
        parts = []
        for language, tokens in documents.items():
            nll, predicted = document_nll(network, tokens, token_budget=token_budget)
            which = numbers[language] if numbers else range(len(nll))
            found = {"document": which, "nll": nll, "tokens": predicted}
            parts.append(pd.DataFrame({"evaluation_language": language, **found}))
        return pd.concat(parts, ignore_index=True)

    found = evaluate_masks(network, masks, evaluate, description="Perplexity under masks", scratch=scratch)
    if rank() > 0:
        return
    named = _named(masks, labels)
    rows, per_document = [], []
    for places, frame in found:
        for language, part in frame.groupby("evaluation_language", sort=False):
            for mask in (named[place] for place in places):
                here = {**mask, "evaluation_language": language}
                rows += perplexity_rows(part["nll"].to_numpy(), part["tokens"].to_numpy(), here)
                per_document.append(part.assign(**here)[[*here, "document", "nll", "tokens"]])
    write_frame(folder / "rows.csv", pd.DataFrame(rows)[list(COLUMNS)])
    write_frame(folder / "documents.parquet", pd.concat(per_document, ignore_index=True))


def _selections(base: Path | None, chat: Path | None) -> dict[str, Path]:
    return {name: folder for name, folder in (("base", base), ("chat", chat)) if folder is not None}


def make_perplexity(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    selected_on_base: Path | None = None,
    selected_on_chat: Path | None = None,
    profile: str,
    model_name: str,
    languages: list[str],
    methods: dict[str, list[str]] | None,
    draws: int | None = None,
    token_budget: int,
    max_length: int,
    device: str,
    dtype: str,
    trust_remote_code: bool,
    scratch: Path | None = None,
) -> None:
    """Write rows.csv and documents.parquet (NLL and tokens of every document under every mask)."""
    network, tokenizer = load_model(
        model_directory(model), device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    frame = pd.read_parquet(corpus / "documents.parquet")
    documents = {
        language: tokenized(frame, tokenizer, split="perplexity", language=language, max_length=max_length)
        for language in languages
    }
    masks = masks_of(_selections(selected_on_base, selected_on_chat), methods, draws=draws)
    labels = {"profile": profile, "model": model_name}
    measure_documents(folder, network, documents, masks, labels=labels, token_budget=token_budget, scratch=scratch)


def build_harness(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    model_name: str,
    languages: list[str],
    batch_size: int,
    delimiters: dict[str, str],
    device: str,
    dtype: str,
    trust_remote_code: bool,
    chat_template: bool = True,
    chat_delimiter: str = "",
    few_shot: int = 5,
    random_seed: int = 2025,
    sample: int | None = None,
    sample_seed: int = 0,
) -> tuple[PreTrainedModel, Harness]:
    """A model and its question tasks; the chat model is asked in its template, where it has one and that is wanted.

    Otherwise it is given the very prompts of the base model.

    corpus : folder with benchmarks.json, or with questions.<language>.jsonl
    delimiters : what stands between prompt and answer, a language
    chat_delimiter : what stands before an answer in the chat template, in every language
    """
    network, tokenizer = load_model(
        model_directory(model), device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    chat = chat_template and model_name == "chat" and tokenizer.chat_template is not None
    if chat:
        delimiters = dict.fromkeys(languages, chat_delimiter)
    if (corpus / "benchmarks.json").is_file():
        write_benchmark_tasks(folder, corpus, few_shot=few_shot, delimiters=delimiters)
    else:
        questions = {language: corpus / f"questions.{language}.jsonl" for language in languages}
        write_tasks(folder, questions, delimiters=delimiters, chat=chat)
    harness = Harness(
        network,
        tokenizer,
        folder,
        batch_size=batch_size,
        chat=chat,
        random_seed=random_seed,
        sample=sample,
        sample_seed=sample_seed,
    )
    return network, harness


def _accuracy_rows(found: pd.DataFrame, mask: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        accuracy_row(answered["correct"].to_numpy(), {**mask, "evaluation_language": language})
        for language, answered in found.groupby("language", sort=False)
    ]


def measure_questions(
    folder: Path,
    network: PreTrainedModel,
    harness: Harness,
    masks: list[Mask],
    *,
    labels: dict[str, Any],
    scratch: Path | None = None,
) -> None:
    """Write rows.csv and items.parquet (every question under every mask: right or wrong).

    scratch : folder where finished masks are kept, from where a later call goes on
    """
    found = evaluate_masks(network, masks, harness.accuracy, description="Questions under masks", scratch=scratch)
    if rank() > 0:
        return
    named = _named(masks, labels)
    rows, items = [], []
    for places, frame in found:
        for mask in (named[place] for place in places):
            items.append(frame.assign(**mask))
            rows += _accuracy_rows(frame, mask)
    write_frame(folder / "rows.csv", pd.DataFrame(rows)[list(COLUMNS)])
    write_frame(folder / "items.parquet", pd.concat(items, ignore_index=True))


def make_nlu(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    selected_on_base: Path | None = None,
    selected_on_chat: Path | None = None,
    profile: str,
    model_name: str,
    methods: dict[str, list[str]] | None,
    draws: int | None = None,
    scratch: Path | None = None,
    **options: Any,
) -> None:
    """Write rows.csv and items.parquet (every question under every mask: right or wrong).

    options : those of `build_harness`
    """
    # The harness reads task definitions from a folder; they name files of this machine, so they do not stay.
    with TemporaryDirectory() as tasks:
        network, harness = build_harness(Path(tasks), corpus=corpus, model=model, model_name=model_name, **options)
        masks = masks_of(_selections(selected_on_base, selected_on_chat), methods, draws=draws)
        labels = {"profile": profile, "model": model_name}
        measure_questions(folder, network, harness, masks, labels=labels, scratch=scratch)


def make_unmasked_nlu(
    folder: Path, *, corpus: Path, model: Path, profile: str, model_name: str, **options: Any
) -> None:
    """Write rows.csv: accuracy of a model with nothing masked.  options : those of `build_harness`"""
    with TemporaryDirectory() as tasks:
        _network, harness = build_harness(Path(tasks), corpus=corpus, model=model, model_name=model_name, **options)
        labels = {"profile": profile, "model": model_name, **mask_labels(None, selected_on="")}
        rows = _accuracy_rows(harness.accuracy(), labels)
    write_frame(folder / "rows.csv", pd.DataFrame(rows)[list(COLUMNS)])
