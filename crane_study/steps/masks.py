"""Steps: perplexity and accuracy of one model under every mask."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.interventions import masked
from crane_lib.neurons import NEURON, NeuronSet, read_neuron_sets
from crane_lib.nll import document_nll
from crane_lib.parallel import barrier, rank, share, world
from crane_lib.relevance.modules import parts_of
from crane_study.data.corpora import sampled_documents, tokenized
from crane_study.frames import keep_frame, kept_frame, write_frame, write_frames
from crane_study.locks import wait_for
from crane_study.measure.benchmarks import write_benchmark_tasks
from crane_study.measure.questions import Harness, write_tasks
from crane_study.measure.rows import EVERYTHING, accuracy_row, mask_labels, perplexity_rows, write_rows
from crane_study.options import DocumentOptions, MaskChoice, ModelOptions, QuestionOptions
from crane_study.progress import progress

KEPT_SECONDS = 1.0  # faster results are not kept: writing a file takes a hundredth of a second
_GROUP = 100  # frames that are labelled and written together

Intervention = Callable[[PreTrainedModel, NeuronSet], AbstractContextManager[Any]]
Mask = tuple[str, NeuronSet | None]  # where a set was selected, and the set; None is the unmasked model


def evaluate_states(
    states: Mapping[str, Callable[[], AbstractContextManager[Any]]],
    evaluate: Callable[[], pd.DataFrame],
    *,
    description: str,
    scratch: Path | None = None,
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Evaluate a model in every state, and yield its name and frame, in the order of `states`; one is held at a time.

    Finished states are kept in `scratch`, from which a later call continues; their names are file names. With such a
    folder the processes of torchrun share the states: each of them iterates to the end, and the first one gets all
    results, the others none, because it may remove the folder while they are still reading.
    """
    kept = _Kept(scratch)
    missing, own = kept.own([name for name in states if not kept.has(name)])
    with progress(description, len(states)) if rank() == 0 else nullcontext() as bar:
        if bar is not None:
            bar.skip(len(states) - len(missing))
        done = len(states) - len(missing)
        for name in own if kept.together else states:
            if (frame := kept.read(name)) is None:
                started = time.monotonic()
                with states[name]():
                    frame = evaluate()
                kept.write(name, frame, seconds=time.monotonic() - started)
                done += name in missing  # a damaged one was counted before
                if bar is not None:
                    bar.advance(done + kept.made_elsewhere(set(missing) - set(own)) - bar.done)
            if not kept.together:
                yield name, frame
    if kept.together:
        barrier()  # every process has done its share
        yield from ((name, kept.by_another(name)) for name in states if rank() == 0)


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
) -> Iterator[tuple[list[int], pd.DataFrame]]:
    """Evaluate a model under every mask, and sets of equal units (a global random mask of all languages) only once.

    Yields, in the first process, the positions in `masks` and the result of every distinct mask, in the order of
    `masks`; every process iterates to the end (`evaluate_states`).
    """
    places: dict[str, list[int]] = {}
    for place, (_selected_on, neurons) in enumerate(masks):
        places.setdefault(units_key(neurons), []).append(place)
    sets = {key: masks[where[0]][1] for key, where in places.items()}
    states = {
        key: nullcontext if neurons is None else partial(intervene, model, neurons) for key, neurons in sets.items()
    }
    for key, frame in evaluate_states(states, evaluate, description=description, scratch=scratch):
        yield places[key], frame


class _Kept:
    """Files of finished states in a scratch folder (or none), through which several processes share the work."""

    def __init__(self, scratch: Path | None) -> None:
        self._folder = scratch
        self.together = scratch is not None and world() > 1

    def own(self, missing: list[str]) -> tuple[list[str], list[str]]:
        """Return the missing states of the first process, because others may see different files, and our share."""
        if not self.together:
            return missing, missing
        missing = share(missing)
        return missing, missing[rank() :: world()]

    def has(self, name: str) -> bool:
        """Return whether there is a file of a state, and a whole one where another process will read it."""
        if self._folder is None:
            return False
        return self.read(name) is not None if self.together else self._file(name).is_file()

    def read(self, name: str) -> pd.DataFrame | None:
        """Return a kept result; None if the file is missing, damaged or of another state."""
        return None if self._folder is None else kept_frame(self._file(name), state=name)

    def write(self, name: str, frame: pd.DataFrame, *, seconds: float) -> None:
        """Keep a result if another process needs it or it took long enough."""
        if self._folder is not None and (self.together or seconds >= KEPT_SECONDS):
            keep_frame(self._file(name), frame, state=name)

    def made_elsewhere(self, names: set[str]) -> int:
        """Return the number of these states that other processes have written."""
        return sum(self._file(name).is_file() for name in names) if self.together else 0

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


def _labelled(parts: Iterable[tuple[int, pd.DataFrame]], named: list[dict[str, Any]]) -> Iterator[pd.DataFrame]:
    """Join frames, each of the mask at a place in `named`, whose columns come last; yields `_GROUP` of them at a time.

    All at once would hold the results of all masks in memory.
    """
    parts, masks = iter(parts), pd.DataFrame(named)
    while group := list(islice(parts, _GROUP)):
        places = np.repeat([place for place, _part in group], [len(part) for _place, part in group])
        joined = pd.concat([part for _place, part in group], ignore_index=True)
        yield pd.concat([joined, masks.iloc[places].reset_index(drop=True)], axis=1)


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
    named, rows = _named(masks, options), list[dict[str, Any]]()

    def found() -> Iterator[tuple[int, pd.DataFrame]]:
        for places, frame in evaluate_masks(network, masks, evaluate, **given):
            for language, part in frame.groupby("evaluation_language", sort=False):
                for place in places:
                    here = {**named[place], "evaluation_language": language}
                    rows.extend(perplexity_rows(part["nll"].to_numpy(), part["tokens"].to_numpy(), here))
                    yield place, part

    columns = [*named[0], "evaluation_language", "document", "nll", "tokens"]
    write_frames(folder / "documents.parquet", (frame[columns] for frame in _labelled(found(), named)))
    if rank() == 0:
        write_rows(folder, rows)
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
    named, rows = _named(masks, options), list[dict[str, Any]]()
    given: dict[str, Any] = {"description": "Questions under masks", "scratch": scratch}

    def found() -> Iterator[tuple[int, pd.DataFrame]]:
        for places, frame in evaluate_masks(network, masks, harness.accuracy, **given):
            for place in places:
                rows.extend(_accuracy_rows(frame, named[place]))
                yield place, frame

    write_frames(folder / "items.parquet", _labelled(found(), named))
    if rank() == 0:
        write_rows(folder, rows)


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
