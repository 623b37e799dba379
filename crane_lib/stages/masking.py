"""Stages: what each mask does to perplexity and to question answering, on one model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from crane_lib.evaluation.benchmarks import write_benchmark_tasks
from crane_lib.evaluation.nlu import Harness, write_tasks
from crane_lib.evaluation.perplexity import document_nll
from crane_lib.evaluation.rows import COLUMNS, accuracy_row, mask_labels, perplexity_rows
from crane_lib.files import write_frame
from crane_lib.masking import masked
from crane_lib.models.loading import load_model, model_directory
from crane_lib.neurons import NeuronSet, read_neuron_sets
from crane_lib.progress import progress
from crane_lib.stages.texts import tokenized


def _masks(selections: dict[str, Path], methods: dict[str, list[str]] | None) -> list[tuple[str, NeuronSet | None]]:
    """Where a set was selected, and the set; first the unmasked model.

    methods : for each model that sets were selected on the methods to mask, all of them if None
    """
    masks: list[tuple[str, NeuronSet | None]] = [("", None)]
    for selected_on, folder in selections.items():
        for path in sorted(folder.glob("*@*.json")):
            method = path.stem.partition("@")[0]
            if methods is None or method in methods[selected_on]:
                masks += [(selected_on, item) for item in read_neuron_sets(path)]
    return masks


def _under_masks(
    model: PreTrainedModel, masks: list[tuple[str, NeuronSet | None]], labels: dict[str, Any], description: str
) -> Iterator[dict[str, Any]]:
    """Mask after mask on one model; gives the columns that name the mask while it is in force."""
    with progress(description, len(masks)) as bar:
        for selected_on, neurons in masks:
            with masked(model, neurons) if neurons is not None else nullcontext():
                yield {**labels, **mask_labels(neurons, selected_on=selected_on)}
            bar.advance()


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
    token_budget: int,
    max_length: int,
    device: str,
    dtype: str,
    trust_remote_code: bool,
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
    masks = _masks(_selections(selected_on_base, selected_on_chat), methods)
    rows, per_document = [], []
    labels = {"profile": profile, "model": model_name}
    for mask in _under_masks(network, masks, labels, "Perplexity under masks"):
        for language, tokens in documents.items():
            nll, predicted = document_nll(network, tokens, token_budget=token_budget)
            rows += perplexity_rows(nll, predicted, {**mask, "evaluation_language": language})
            per_document.append(
                pd.DataFrame(
                    {
                        **mask,
                        "evaluation_language": language,
                        "document": range(len(nll)),
                        "nll": nll,
                        "tokens": predicted,
                    }
                )
            )
    write_frame(folder / "rows.csv", pd.DataFrame(rows)[list(COLUMNS)])
    write_frame(folder / "documents.parquet", pd.concat(per_document, ignore_index=True))


def _harness(
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
    few_shot: int = 5,
    random_seed: int = 2025,
) -> tuple[PreTrainedModel, Harness]:
    """A model and its question tasks; the chat model is asked in its template, where it has one and that is wanted.

    corpus : folder with benchmarks.json, or with questions.<language>.jsonl
    """
    network, tokenizer = load_model(
        model_directory(model), device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    chat = chat_template and model_name == "chat" and tokenizer.chat_template is not None
    if (corpus / "benchmarks.json").is_file():
        write_benchmark_tasks(folder, corpus, few_shot=few_shot, delimiters=delimiters)
    else:
        questions = {language: corpus / f"questions.{language}.jsonl" for language in languages}
        write_tasks(folder, questions, delimiters=delimiters, chat=chat)
    return network, Harness(network, tokenizer, folder, batch_size=batch_size, chat=chat, random_seed=random_seed)


def _accuracy_rows(found: pd.DataFrame, mask: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        accuracy_row(answered["correct"].to_numpy(), {**mask, "evaluation_language": language})
        for language, answered in found.groupby("language", sort=False)
    ]


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
    **options: Any,
) -> None:
    """Write rows.csv and items.parquet (every question under every mask: right or wrong).

    options : those of `_harness`
    """
    # The harness reads task definitions from a folder; they name files of this machine, so they do not stay.
    with TemporaryDirectory() as tasks:
        network, harness = _harness(Path(tasks), corpus=corpus, model=model, model_name=model_name, **options)
        masks = _masks(_selections(selected_on_base, selected_on_chat), methods)
        rows, items = [], []
        labels = {"profile": profile, "model": model_name}
        for mask in _under_masks(network, masks, labels, "Questions under masks"):
            found = harness.accuracy()
            items.append(found.assign(**mask))
            rows += _accuracy_rows(found, mask)
    write_frame(folder / "rows.csv", pd.DataFrame(rows)[list(COLUMNS)])
    write_frame(folder / "items.parquet", pd.concat(items, ignore_index=True))


def make_unmasked_nlu(
    folder: Path, *, corpus: Path, model: Path, profile: str, model_name: str, **options: Any
) -> None:
    """Write rows.csv: accuracy of a model with nothing masked.  options : those of `_harness`"""
    with TemporaryDirectory() as tasks:
        _network, harness = _harness(Path(tasks), corpus=corpus, model=model, model_name=model_name, **options)
        labels = {"profile": profile, "model": model_name, **mask_labels(None, selected_on="")}
        rows = _accuracy_rows(harness.accuracy(), labels)
    write_frame(folder / "rows.csv", pd.DataFrame(rows)[list(COLUMNS)])
