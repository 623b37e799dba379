"""Step: answers of a model that is steered towards a language, in many ways and strengths, and what they are worth."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crane_lib.files import read_json
from crane_lib.methods import METHODS
from crane_lib.neurons import NEURON, NeuronSet
from crane_lib.parallel import rank
from crane_lib.scores import UnitScores
from crane_lib.selection import budget_count, marked_indices, top
from crane_lib.steering import MeanActivations, difference_of_means, mean_activations, pushed, steered
from crane_study.data.corpora import tokenized
from crane_study.frames import read_frame, write_frame
from crane_study.measure.generation import chat_prompt, greedy_answers
from crane_study.measure.judge_offline import KnowledgeBase
from crane_study.measure.steering import (
    ASKED,
    GAIN,
    MEAN,
    NONE,
    PUSH,
    RIVAL,
    chance_corrected,
    fact_value,
    language_detector,
    retrieved,
)
from crane_study.options import ModelOptions
from crane_study.progress import progress
from crane_study.steps.masks import evaluate_states
from crane_study.uncertainty.overlap import as_neurons

RANDOM = "random_global"
WAY = ["method", "how", "layer", "strength", "draw"]
_SENTENCE = re.compile(r".+?(?:[。！？]|[.!?](?=\s|$))", re.DOTALL)
Entered = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class SteeringOptions(ModelOptions):
    """Ways to steer, prompts and answers; `settings` are those of the profile (`crane_study.profile.Steering`)."""

    settings: dict[str, Any]
    objective: str
    parallel: bool  # prompts of one number are translations of one another
    repetition_penalty: float
    batch_size: int
    token_budget: int
    max_length: int
    skip_first_tokens: int
    random_seed: int


@dataclass(frozen=True)
class _Prompts:
    """Prompts by language and number (language, prompt, text and what is known of the answer), and their tokens."""

    frame: pd.DataFrame
    tokens: dict[tuple[str, int], list[int]]

    def of(self, languages: Sequence[str]) -> list[tuple[str, int]]:
        return [key for key in self.tokens if key[0] in languages]


def first_sentence_of(text: str) -> str:
    """First sentence of a text, with its full stop; the whole text if it has none."""
    found = _SENTENCE.match(text.strip())
    return found.group() if found else text.strip()


def _read_prompts(
    tokenizer: PreTrainedTokenizerBase, corpus: Path, questions: Path | None, options: SteeringOptions
) -> _Prompts:
    """First open questions, or first sentences of held-out documents, of equal number in every language."""
    if questions is not None:
        frame = read_frame(questions / "questions.parquet").rename(columns={"question": "prompt"})
    else:
        frame = pd.read_parquet(corpus / "documents.parquet", columns=["split", "language", "text"])
        frame = frame[frame["split"] == "perplexity"]
        frame = frame.assign(prompt=frame.groupby("language").cumcount(), text=frame["text"].map(first_sentence_of))
    frame = frame[frame["language"].isin(options.languages)]
    known = set.intersection(*(set(own["prompt"]) for _language, own in frame.groupby("language")))
    frame = frame[frame["prompt"].isin(sorted(known)[: options.settings["prompts"]])].reset_index(drop=True)
    keys = zip(frame["language"], frame["prompt"], frame["text"], strict=True)
    if questions is not None:
        return _Prompts(frame, {(k, int(n)): chat_prompt(tokenizer, text) for k, n, text in keys})
    most = options.settings["prompt_tokens"]
    return _Prompts(frame, {(k, int(n)): tokenizer(text)["input_ids"][:most] for k, n, text in keys})


def _sets(relevance: Path, options: SteeringOptions) -> dict[str, dict[str, list[NeuronSet]]]:
    """Sets to steer by method and language; random ones, drawn from all neurons, have several draws."""
    settings = options.settings
    scores = UnitScores.read(relevance, objective=options.objective, languages=options.languages)
    found: dict[str, dict[str, list[NeuronSet]]] = {}
    budget, label = settings["budget"], f"{settings['budget']:g}"
    for name in settings["methods"]:
        chosen = scores.sets(name, label, METHODS[name].select(scores, budget=budget))
        found[name] = {item.language: [as_neurons(item)] for item in chosen}
    shape = scores.layers, scores.widths[NEURON]
    found[RANDOM] = {language: [] for language in options.languages}
    for draw in range(settings["draws"]):
        for number, language in enumerate(options.languages):
            random = np.random.default_rng([options.random_seed, 47, draw, number]).random(shape)
            sites = {NEURON: marked_indices(top(random, budget_count(budget, random.size)))}
            found[RANDOM][language] += scores.sets(RANDOM, label, {language: sites}, draw=draw)
    return found


def _ways(
    model: PreTrainedModel,
    sets: dict[str, dict[str, list[NeuronSet]]],
    means: dict[str, MeanActivations],
    settings: dict[str, Any],
) -> dict[str, dict[tuple[Any, ...], Entered]]:
    """Ways to steer towards each language: the values of `WAY` and the block that steers so."""
    differences, layers = difference_of_means(means), next(iter(means.values())).layers.shape[0]
    ways: dict[str, dict[tuple[Any, ...], Entered]] = {language: {} for language in means}
    for language, own in ways.items():
        for method, by_language in sets.items():
            for item in by_language[language]:
                named = item.random_seed if method == RANDOM else -1
                for gain in settings["gains"]:
                    own[method, GAIN, -1, gain, named] = partial(steered, model, item, gain=gain)
                add = means[language].neurons
                for strength in settings["additions"]:
                    own[method, MEAN, -1, strength, named] = partial(steered, model, item, add=add, strength=strength)
        for layer in sorted({min(int(depth * layers), layers - 1) for depth in settings["depths"]}):
            vectors = {layer: differences[language][layer]}
            for strength in settings["pushes"]:
                own[RIVAL, PUSH, layer, strength, -1] = partial(pushed, model, vectors, strength=strength)
    return ways


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: _Prompts, options: SteeringOptions, wanted: str
) -> pd.DataFrame:
    """Answers to the prompts in all languages but the wanted one: prompt_language, prompt, answer, ids."""
    keys = prompts.of([language for language in options.languages if language != wanted])
    given: dict[str, Any] = {name: getattr(options, name) for name in ("repetition_penalty", "batch_size")}
    given["max_new_tokens"] = options.settings["max_new_tokens"]
    found = greedy_answers(model, tokenizer, [prompts.tokens[key] for key in keys], **given)
    rows = [(*key, answer.text, list(answer.ids)) for key, answer in zip(keys, found, strict=True)]
    return pd.DataFrame(rows, columns=["prompt_language", "prompt", "answer", "ids"])


def _all_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: _Prompts,
    ways: dict[str, dict[tuple[Any, ...], Entered]],
    options: SteeringOptions,
    scratch: Path | None,
) -> pd.DataFrame:
    """Answers of the model as it is (to all prompts, for every wanted language) and steered in every way."""
    unsteered = evaluate_states(
        {"unsteered": nullcontext},
        partial(_answers, model, tokenizer, prompts, options, ""),
        description="Answers without steering",
        scratch=scratch,
    )
    plain = [frame for _state, frame in unsteered]
    parts = []
    for language, own in ways.items():
        states = {f"{language}-{'-'.join(map(str, way))}": block for way, block in own.items()}
        evaluate = partial(_answers, model, tokenizer, prompts, options, language)
        found = dict(evaluate_states(states, evaluate, description=f"Steering towards {language}", scratch=scratch))
        for frame in plain:
            asked = frame["prompt_language"] == language
            none = dict(zip(WAY[1:], ("", -1, 0.0, -1), strict=True))
            parts.append(frame.assign(method=np.where(asked, ASKED, NONE), **none, wanted_language=language))
        labels = dict(zip(states, own, strict=True))
        for state, frame in found.items():
            parts.append(frame.assign(**dict(zip(WAY, labels[state], strict=True)), wanted_language=language))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _retrieval(
    model: PreTrainedModel, answers: pd.DataFrame, prompts: _Prompts, options: SteeringOptions
) -> np.ndarray:
    """Chance-corrected retrieval of the prompt of every answer, by the unsteered model; 0 for an empty answer."""
    count = min(options.settings["candidates"], prompts.frame["prompt"].nunique())
    numbers = sorted(prompts.frame["prompt"].unique())

    def candidates(row: Any) -> list[list[int]]:
        language = row.wanted_language if options.parallel else row.prompt_language
        place = numbers.index(row.prompt)
        return [prompts.tokens[language, numbers[(place + step) % len(numbers)]] for step in range(count)]

    value = np.zeros(len(answers))
    (full,) = np.nonzero(answers["answer"] != "")
    rows, size = list(answers.itertuples()), max(1, options.batch_size)
    with progress("Relevance of the answers", len(full)) as bar:
        for start in range(0, len(full), size):
            places = full[start : start + size]
            given = [rows[place].ids for place in places], [candidates(rows[place]) for place in places]
            value[places] = chance_corrected(retrieved(model, *given, token_budget=options.token_budget), count)
            bar.advance(len(places))
    return value


def make_steering(
    folder: Path,
    *,
    corpus: Path,
    model: Path,
    relevance: Path,
    options: SteeringOptions,
    questions: Path | None = None,
    scratch: Path | None = None,
) -> None:
    """Write answers.parquet: every answer of the model, steered in every way towards every language.

    Columns: those of `WAY`, prompt_language, wanted_language, prompt (its number), text, answer, language (detected),
    forced (it is the wanted one), relevance, measure ("facts" or "retrieval"). Methods ``unsteered`` and ``asked`` are
    the model as it is, asked in another and in the wanted language.
    """
    network, tokenizer = options.loading.load(model)
    detect = language_detector(options.languages)
    frame, means = pd.read_parquet(corpus / "documents.parquet"), {}
    for language in options.languages:
        length = options.max_length
        texts = tokenized(frame, tokenizer, split="relevance", language=language, max_length=length)
        skip = max(1, options.skip_first_tokens)
        means[language] = mean_activations(network, texts[: options.settings["documents"]], skip=skip)
    prompts = _read_prompts(tokenizer, corpus, questions, options)
    ways = _ways(network, _sets(relevance, options), means, options.settings)
    answers = _all_answers(network, tokenizer, prompts, ways, options, scratch)
    if rank() > 0:
        return
    knowledge = read_json(questions / "knowledge.json") if questions is not None else []
    known = prompts.frame.set_index(["language", "prompt"])
    keys = list(zip(answers["prompt_language"], answers["prompt"], strict=True))
    answers["text"] = [known.loc[key, "text"] for key in keys]
    answers["language"] = answers["answer"].map(detect)
    answers["forced"] = answers["language"] == answers["wanted_language"]
    if knowledge:
        base = KnowledgeBase(knowledge)
        asked = [{**known.loc[key].to_dict(), "language": key[0]} for key in keys]
        answers["relevance"] = [fact_value(base, *pair) for pair in zip(answers["answer"], asked, strict=True)]
    else:
        answers["relevance"] = _retrieval(network, answers, prompts, options)
    answers["measure"] = "facts" if knowledge else "retrieval"
    columns = [*WAY, "prompt_language", "wanted_language", "prompt", "text", "answer", "language", "forced"]
    write_frame(folder / "answers.parquet", answers[[*columns, "relevance", "measure"]])
