"""Evaluating masks: time of `Harness.accuracy` over many masks against the forward passes it cannot do without.

`python -m benchmarks.masks --help`
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.measurement import Measurement, alternate, machine_facts, ratio, run_command, timed, times
from crane_lib.files import write_json, write_text
from crane_lib.interventions import masked
from crane_lib.neurons import NeuronSet
from crane_run import rehearsal
from crane_study.frames import write_frame
from crane_study.loading.models import load_model
from crane_study.measure.questions import Harness, write_tasks
from crane_study.profile import EmbeddedSource, load_profile

LANGUAGES = ("en", "zh", "vi")
OURS, MODEL, OFTEN = "all masks", "forward passes alone", "harness built again for each mask"
GOAL = "<= 1.5"
RESULTS = Path(__file__).resolve().parent / "results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _questions(folder: Path, language: str, count: int) -> Path:
    """Four-way questions with options of several tokens, as those of the embedded study."""

    writer = rehearsal.Writer(language)
    rows = [
        {"question": writer.words(10), "options": [writer.words(2) for _ in range(4)], "gold": writer.right()}
        for _ in range(count)
    ]
    path = folder / f"questions.{language}.jsonl"
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def _model() -> LlamaForCausalLM:
    """The embedded model of the profile mini, with random weights."""
    source = load_profile("mini").source
    assert isinstance(source, EmbeddedSource)  # mini trains its model
    size = source.architecture
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def random_masks(model: PreTrainedModel, count: int) -> list[NeuronSet]:
    """Sets of a tenth of the neurons, drawn at random."""
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    generator = np.random.default_rng(0)
    return [
        NeuronSet(
            sites={
                "neuron": [np.sort(generator.choice(width, size=width // 10, replace=False)) for _ in range(layers)]
            },
            widths={"neuron": width},
        )
        for _ in range(count)
    ]


def under(model: PreTrainedModel, masks: list[NeuronSet], work: Callable[[], object]) -> Callable[[], None]:
    """A call that does the work under every mask."""

    def run() -> None:
        for neurons in masks:
            with masked(model, neurons):
                work()

    return run


def measure(*, masks: int, questions: int, rounds: int, batch_size: int = 64) -> list[Measurement]:
    """Time the contestants in turn in every round, and building the harness again once, for one mask."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        rehearsal.write_models(folder / "model", None, architecture={"model_type": "llama"}, languages=LANGUAGES)
        _model().save_pretrained(folder / "model")
        model, tokenizer = load_model(folder / "model", device="auto")
        write_tasks(
            folder / "tasks",
            {language: _questions(folder, language, questions) for language in LANGUAGES},
            delimiters={},
            chat=False,
        )

        def build() -> Harness:
            return Harness(model, tokenizer, folder / "tasks", batch_size=batch_size, chat=False)

        harness = build()
        chosen = random_masks(model, masks)

        def passes() -> None:
            for _batch, _logits in harness.requests.forward(model):
                pass

        harness.accuracy()  # warm
        contestants = {OURS: under(model, chosen, harness.accuracy), MODEL: under(model, chosen, passes)}
        found = alternate([contestants] * rounds)
        rebuilt = timed(lambda: build().accuracy())
    return [
        *times("masks", found),
        ratio("masks", found, OURS, MODEL, goal=GOAL),
        Measurement("masks", OFTEN, rebuilt * masks, "s, estimated from one"),
        Measurement("masks", "masks", masks, ""),
        Measurement("masks", "questions per language", questions, ""),
    ]


@app.command()
def run(
    quick: Annotated[bool, typer.Option("--quick", help="Few masks and questions: shows that all runs.")] = False,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the results go.")] = RESULTS,
) -> None:
    """Time of 30 masks x 3 languages x 200 questions, against the model's forward passes in the same run.

    Both sides mask the model and run the same batches; ours also scores the answers. The goal is a ratio under 1.5.
    Writes masks.csv and masks-machine.json to DIR.
    """
    facts = machine_facts()
    rows = measure(masks=2 if quick else 30, questions=8 if quick else 200, rounds=1 if quick else 3)
    frame = pd.DataFrame([{**vars(row), "met": "" if quick or row.met is None else row.met} for row in rows])
    suffix = "-quick" if quick else ""
    write_frame(output / f"masks{suffix}.csv", frame)
    write_json(output / f"masks{suffix}-machine.json", vars(facts))
    print(frame[["what", "value", "low", "high", "unit", "goal", "met"]].to_string(index=False))


if __name__ == "__main__":
    run_command(app)
