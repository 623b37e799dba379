"""Steps: perplexity and accuracy of one model under every mask."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import ArrowException
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.interventions import masked
from crane_lib.neurons import NEURON, NeuronSet, read_neuron_sets
from crane_lib.nll import document_nll
from crane_lib.parallel import barrier, rank, share, world
from crane_lib.relevance.modules import parts_of
from crane_study.data.corpora import sampled_documents, tokenized
from crane_study.frames import write_frame
from crane_study.locks import wait_for
from crane_study.measure.benchmarks import write_benchmark_tasks
from crane_study.measure.questions import Harness, write_tasks
from crane_study.measure.rows import EVERYTHING, accuracy_row, mask_labels, perplexity_rows, write_rows
from crane_study.options import DocumentOptions, MaskChoice, ModelOptions, QuestionOptions
from crane_study.progress import progress

KEPT_SECONDS = 1.0  # faster results are not kept: writing a file takes a hundredth of a second
_STATE = "state"  # column of a kept file that names its state

Intervention = Callable[[PreTrainedModel, NeuronSet], AbstractContextManager[Any]]
Mask = tuple[str, NeuronSet | None]  # where a set was selected, and the set; None is the unmasked model


def evaluate_states(
    states: Mapping[str, Callable[[], AbstractContextManager[Any]]],
    evaluate: Callable[[], pd.DataFrame],
    *,
    description: str,
    scratch: Path | None = None,
) -> dict[str, pd.DataFrame]:
    """Evaluate a model in every state, and return the frames by state, in the order of `states`.

    Finished states are kept in `scratch`, from which a later call continues; their names are file names. With such a
    folder the processes of torchrun share the states: each of them calls this, and the first one gets all results, the
    others none, because it may remove the folder while they are still reading.
    """
    kept = _Kept(scratch)
    found = {name: frame for name in states if (frame := kept.read(name)) is not None}
    missing, own = kept.own([name for name in states if name not in found])
    with progress(description, len(states)) if rank() == 0 else nullcontext() as bar:
        if bar is not None:
            bar.skip(len(states) - len(missing))
        for name in own:
            started = time.monotonic()
            with states[name]():
                found[name] = evaluate()
            kept.write(name, found[name], seconds=time.monotonic() - started)
            if bar is not None:
                bar.advance(len(found) + kept.made_elsewhere(set(missing) - set(found)) - bar.done)
    kept.wait()
    return {name: found[name] if name in found else kept.by_another(name) for name in states if rank() == 0}


def units_key(neurons: NeuronSet | None) -> str:
    """Return a hash of the masked units, which is equal for equal sets under different names."""
    digest = hashlib.sha256()
    sites = neurons.sites if neurons is not None else {}
    for site in sorted(sites):
        for layer, indices in enumerate(sites[site]):
            if len(indices):
                digest.update(f"{site} {layer} {len(indices)}\n".encode())
                digest.update(np.ascontiguousarray(indices, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]


def evaluate_masks(
    model: PreTrainedModel,
    masks: list[Mask],
    evaluate: Callable[[], pd.DataFrame],
    *,
    description: str,
    scratch: Path | None = None,
    intervene: Intervention = masked,
) -> list[tuple[list[int], pd.DataFrame]]:
    """Evaluate a model under every mask, and sets of equal units (a global random mask of all languages) only once.

    The first process gets the positions in `masks` and the result of every distinct mask, in the order of `masks`.
    """
    places: dict[str, list[int]] = {}
    for place, (_selected_on, neurons) in enumerate(masks):
        places.setdefault(units_key(neurons), []).append(place)
    sets = {key: masks[where[0]][1] for key, where in places.items()}
    states = {
        key: nullcontext if neurons is None else partial(intervene, model, neurons) for key, neurons in sets.items()
    }
    found = evaluate_states(states, evaluate, description=description, scratch=scratch)
    return [(places[key], frame) for key, frame in found.items()]


class _Kept:
    """Files of finished states in a scratch folder (or none), through which several processes share the work."""

    def __init__(self, scratch: Path | None) -> None:
        self._folder = scratch
        self._together = scratch is not None and world() > 1

    def own(self, missing: list[str]) -> tuple[list[str], list[str]]:
        """Return the missing states of the first process, because others may see different files, and our share."""
        if not self._together:
            return missing, missing
        missing = share(missing)
        return missing, missing[rank() :: world()]

    def read(self, name: str) -> pd.DataFrame | None:
        """Return a kept result; None if the file is missing, damaged or of another state."""
        if self._folder is None:
            return None
        try:
            frame = pd.read_parquet(self._file(name))
            states = frame.pop(_STATE)
        except (OSError, ValueError, KeyError, ArrowException):
            return None
        return frame if len(frame) and (states == name).all() else None

    def write(self, name: str, frame: pd.DataFrame, *, seconds: float) -> None:
        """Keep a result if another process needs it or it took long enough."""
        if self._folder is not None and (self._together or seconds >= KEPT_SECONDS):
            write_frame(self._file(name), frame.assign(**{_STATE: name}))

    def made_elsewhere(self, names: set[str]) -> int:
        """Return the number of these states that other processes have written."""
        return sum(self._file(name).is_file() for name in names) if self._together else 0

    def wait(self) -> None:
        """Wait until every process has done its share."""
        if self._together:
            barrier()

    def by_another(self, name: str) -> pd.DataFrame:
        """Return the result of another process."""
        return wait_for(self._file(name), lambda: self.read(name))

    def _file(self, name: str) -> Path:
        assert self._folder is not None  # without a folder nothing is kept
        return self._folder / f"{name}.parquet"


def masks_of(selections: dict[str, Path], choice: MaskChoice) -> list[Mask]:
    """List the unmasked model and the chosen sets of folders, named by the model that they were selected on."""
    masks: list[Mask] = [("", None)]
    for selected_on, folder in selections.items():
        for path in sorted(folder.glob("*@*.json")):
            method = path.stem.partition("@")[0]
            if method not in choice.without and (choice.methods is None or method in choice.methods[selected_on]):
                masks += [
                    (selected_on, item)
                    for item in read_neuron_sets(path)
                    if (choice.draws is None or item.random_seed < choice.draws)
                    and (choice.budgets is None or item.budget in choice.budgets)
                ]
    return masks


def every_neuron(network: PreTrainedModel, options: ModelOptions) -> list[Mask]:
    """Return the mask of all neurons under the name of every language; nothing if it is not asked for."""
    if not options.masks.everything:
        return []
    parts = parts_of(network)
    width = parts.widths[NEURON]
    sites = {NEURON: [np.arange(width)] * len(parts.layers)}
    labels: dict[str, Any] = {"method": EVERYTHING, "budget": "1"}
    return [
        (options.model_name, NeuronSet(sites, {NEURON: width}, language=language, **labels))
        for language in options.languages
    ]


def by_model(sets: Mapping[str, Path]) -> dict[str, Path]:
    """Return folders of sets by the model that they were selected on, which ``selected_on_<model>`` names."""
    return {name.removeprefix("selected_on_"): folder for name, folder in sorted(sets.items())}


def _write_killed(folder: Path, masks: list[Mask], named: list[dict[str, Any]]) -> None:
    """Write masks.csv: number and share of the neurons that each mask silences."""
    counts = [(neurons.killed(), neurons.killed_share()) for _on, neurons in masks if neurons is not None]
    labels = [label for label, (_on, neurons) in zip(named, masks, strict=True) if neurons is not None]
    frame = pd.DataFrame(labels).assign(killed=[n for n, _ in counts], killed_share=[share for _, share in counts])
    write_frame(folder / "masks.csv", frame)


def _named(masks: list[Mask], options: ModelOptions) -> list[dict[str, Any]]:
    """Return the columns that name each mask in result rows."""
    return [{**options.labels, **mask_labels(neurons, selected_on=selected_on)} for selected_on, neurons in masks]


def _labelled(parts: list[tuple[int, pd.DataFrame]], named: list[dict[str, Any]]) -> pd.DataFrame:
    """Join frames, each of the mask at a place in `named`, whose columns come last."""
    places = np.repeat([place for place, _part in parts], [len(part) for _place, part in parts])
    joined = pd.concat([part for _place, part in parts], ignore_index=True)
    return pd.concat([joined, pd.DataFrame(named).iloc[places].reset_index(drop=True)], axis=1)


def held_out(
    corpus: Path,
    tokenizer: PreTrainedTokenizerBase,
    options: DocumentOptions,
    *,
    change: Callable[[str, str], str] | None = None,
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[int]] | None]:
    """Return the token ids of held-out documents by language, and their numbers if they are a sample.

    Only the texts of a sample can be changed (`sampled_documents`).
    """
    if options.documents is not None:
        given = {name: getattr(options, name) for name in ("languages", "documents", "max_length", "random_seed")}
        return sampled_documents(corpus, tokenizer, **given, change=change)
    frame, length = pd.read_parquet(corpus / "documents.parquet"), options.max_length
    return {
        language: tokenized(frame, tokenizer, split="perplexity", language=language, max_length=length)
        for language in options.languages
    }, None


def measure_documents(
    folder: Path,
    network: PreTrainedModel,
    documents: dict[str, list[np.ndarray]],
    masks: list[Mask],
    *,
    options: DocumentOptions,
    numbers: dict[str, list[int]] | None = None,
    scratch: Path | None = None,
    intervene: Intervention = masked,
) -> None:
    """Write rows.csv, documents.parquet (NLL and tokens of every document under every mask) and masks.csv.

    `numbers` are those of sampled documents; otherwise they are counted from 0.
    """

    def evaluate() -> pd.DataFrame:
        parts = []
        for language, tokens in documents.items():
            nll, predicted = document_nll(network, tokens, token_budget=options.token_budget)
            which = numbers[language] if numbers else range(len(nll))
            found = {"document": which, "nll": nll, "tokens": predicted}
            parts.append(pd.DataFrame({"evaluation_language": language, **found}))
        return pd.concat(parts, ignore_index=True)

    given: dict[str, Any] = {"description": "Perplexity under masks", "scratch": scratch, "intervene": intervene}
    found = evaluate_masks(network, masks, evaluate, **given)
    if rank() > 0:
        return
    named = _named(masks, options)
    rows, per_document = [], []
    for places, frame in found:
        for language, part in frame.groupby("evaluation_language", sort=False):
            for place in places:
                here = {**named[place], "evaluation_language": language}
                rows += perplexity_rows(part["nll"].to_numpy(), part["tokens"].to_numpy(), here)
                per_document.append((place, part))
    write_rows(folder, rows)
    columns = [*named[0], "evaluation_language", "document", "nll", "tokens"]
    write_frame(folder / "documents.parquet", _labelled(per_document, named)[columns])
    _write_killed(folder, masks, named)


def make_perplexity(
    folder: Path, *, corpus: Path, model: Path, options: DocumentOptions, scratch: Path | None = None, **sets: Path
) -> None:
    """Write rows.csv and documents.parquet (NLL and tokens of every document under every mask)."""
    network, tokenizer = options.loading.load(model)
    documents, numbers = held_out(corpus, tokenizer, options)
    masks = masks_of(by_model(sets), options.masks) + every_neuron(network, options)
    measure_documents(folder, network, documents, masks, options=options, numbers=numbers, scratch=scratch)


@contextmanager
def question_harness(corpus: Path, model: Path, options: QuestionOptions) -> Iterator[tuple[PreTrainedModel, Harness]]:
    """Yield a model and its question tasks, from a folder with benchmarks.json or questions.<language>.jsonl."""
    network, tokenizer = options.loading.load(model)
    chat = options.chat_template and options.model_name == "chat" and tokenizer.chat_template is not None
    delimiters = dict.fromkeys(options.languages, options.chat_delimiter) if chat else options.delimiters
    # The harness reads task definitions from a folder; they name files of this machine, so they are not kept.
    with TemporaryDirectory() as tasks:
        folder = Path(tasks)
        if (corpus / "benchmarks.json").is_file():
            write_benchmark_tasks(folder, corpus, few_shot=options.few_shot, delimiters=delimiters)
        else:
            questions = {language: corpus / f"questions.{language}.jsonl" for language in options.languages}
            write_tasks(folder, questions, delimiters=delimiters, chat=chat)
        sample = None if options.questions is None else (options.questions, options.sample_seed)
        given: dict[str, Any] = {"batch_size": options.batch_size, "chat": chat, "random_seed": options.random_seed}
        yield network, Harness(network, tokenizer, folder, **given, sample=sample)


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
    options: QuestionOptions,
    scratch: Path | None = None,
) -> None:
    """Write rows.csv and items.parquet (every question under every mask: right or wrong)."""
    found = evaluate_masks(network, masks, harness.accuracy, description="Questions under masks", scratch=scratch)
    if rank() > 0:
        return
    named = _named(masks, options)
    rows, items = [], []
    for places, frame in found:
        for place in places:
            items.append((place, frame))
            rows += _accuracy_rows(frame, named[place])
    write_rows(folder, rows)
    write_frame(folder / "items.parquet", _labelled(items, named))


def make_nlu(
    folder: Path, *, corpus: Path, model: Path, options: QuestionOptions, scratch: Path | None = None, **sets: Path
) -> None:
    """Write rows.csv and items.parquet (every question under every mask: right or wrong)."""
    with question_harness(corpus, model, options) as (network, harness):
        masks = masks_of(by_model(sets), options.masks) + every_neuron(network, options)
        measure_questions(folder, network, harness, masks, options=options, scratch=scratch)


def make_unmasked_nlu(folder: Path, *, corpus: Path, model: Path, options: QuestionOptions) -> None:
    """Write rows.csv and items.parquet of the unmasked model."""
    with question_harness(corpus, model, options) as (_network, harness):
        labels, found = {**options.labels, **mask_labels(None, selected_on="")}, harness.accuracy()
        write_rows(folder, _accuracy_rows(found, labels))
        write_frame(folder / "items.parquet", found.assign(**labels))
