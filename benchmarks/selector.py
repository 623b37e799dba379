"""Selection rules at matched damage: what masks of equal damage to one language cost the worst other language.

`python -m benchmarks.selector --help`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from transformers import PreTrainedModel

from benchmarks.measurement import machine_facts, run_command
from crane_lib.errors import CraneError
from crane_lib.files import write_json
from crane_lib.relevance.corpus import stream_statistics
from crane_lib.relevance.statistics import Statistics
from crane_lib.rivals import average_precision
from crane_lib.selection import Scores, lape_scores, normalized_contrast, top
from crane_study.data.xquad import HALVES, json_file, read_xquad
from crane_study.frames import write_frame
from crane_study.loading.models import load_model
from crane_study.own.judge import Judge
from crane_study.steps.activations import document_activations
from crane_study.steps.gates import GateOptions, learned_gates
from crane_study.tables.matched_damage import damage_table
from crane_study.uncertainty.matched_damage import Response

LANGUAGES = ("en", "zh", "vi")
SHOWN = ["method", "masked_language", "damage", "worst", "worst_low", "worst_high", "killed"]
DOSES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # silenced neurons
RESULTS = Path(__file__).resolve().parent / "results"
TOKENS = 2048  # of a batch
Values = dict[str, dict[str, np.ndarray]]  # statistic -> language -> (L, I)
Rule = Callable[[Values], Scores]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _contrast(statistic: str, penalty: float = 1.0) -> Rule:
    return lambda values: normalized_contrast(values[statistic], penalty=penalty)


def _ratio(statistic: str, quantile: float = 0.98) -> Rule:
    """Own value over the largest other plus a floor, a quantile of all values; each language divided by its sum."""

    def scores(values: Values) -> Scores:
        scaled = {language: array / array.sum() for language, array in values[statistic].items()}
        floor = np.quantile(np.stack(list(scaled.values())), quantile)
        return {
            own: array / (np.max([scaled[other] for other in scaled if other != own], axis=0) + floor)
            for own, array in scaled.items()
        }

    return scores


def _precision_of_size(values: Values) -> Scores:
    """Average precision of the size of h in telling the language of a document."""
    sizes = values["size"]  # (documents, L, I)
    label = np.repeat(list(sizes), [len(item) for item in sizes.values()])
    layers = np.concatenate(list(sizes.values())).astype(np.float64).swapaxes(0, 1)
    return {k: np.stack([average_precision(label == k, layer) for layer in layers]) for k in sizes}


def _gates_after_penalized(values: Values) -> Scores:
    """The .2 % of neurons that `penalized` puts first, then the others by their gates."""
    best = normalized_contrast(values["both"], penalty=2.0)
    return {k: np.where(top(own, round(0.002 * own.size)), 2.0 + own, values["closed"][k]) for k, own in best.items()}


RULES: dict[str, Rule] = {
    "lape": lambda values: lape_scores(values["firing"]),
    "activation_contrast": _contrast("firing"),
    "magnitude_contrast": _contrast("magnitude"),
    "output_contrast": _contrast("output"),
    "contrast": _contrast("relevance"),
    "contrast_abs": _contrast("absolute"),
    **{f"absolute, penalty {k}": _contrast("absolute", k) for k in (1.5, 2, 3, 5)},
    **{f"output, penalty {k}": _contrast("output", k) for k in (2, 5)},
    **{f"both, penalty {k}": _contrast("both", k) for k in (1.5, 2, 3)},
    "absolute, ratio": _ratio("absolute"),
    "output, ratio": _ratio("output"),
    "average_precision_size": _precision_of_size,
    "gates": lambda values: values["closed"],
    "penalized_gates": _gates_after_penalized,
}


class Measured(Values):
    """Values of the rules; what is not a statistic is measured on the documents when a rule first asks for it."""

    def __init__(self, values: Values, model: PreTrainedModel, documents: dict[str, list[np.ndarray]]) -> None:
        super().__init__(values)
        self._model, self._documents = model, documents

    def __missing__(self, name: str) -> dict[str, np.ndarray]:
        if name == "closed":
            self[name] = learned_gates(self._model, self._documents, options=GateOptions(), token_budget=TOKENS)
        elif name == "size":
            self[name] = {k: self._sizes(texts) for k, texts in self._documents.items()}
        else:
            raise KeyError(name)
        return self[name]

    def _sizes(self, texts: list[np.ndarray]) -> np.ndarray:
        return document_activations(self._model, texts, token_budget=TOKENS)["size"]


def unit_values(statistics: dict[str, Statistics]) -> Values:
    """Statistics that the rules compare; `both` is the geometric mean of |relevance| and output."""
    values: Values = {name: {} for name in ("relevance", "absolute", "firing", "magnitude", "output", "both")}
    for language, found in statistics.items():
        values["relevance"][language] = found.moments["neuron"].mean.numpy()
        values["absolute"][language] = found.moments["abs_neuron"].mean.numpy()
        values["firing"][language] = found.active.double().numpy() / found.tokens
        values["magnitude"][language] = found.magnitude.numpy() / found.tokens
        values["output"][language] = values["magnitude"][language] * found.norms.numpy()
        values["both"][language] = np.sqrt(values["absolute"][language] * values["output"][language])
    return values


def _ids(tokenizer: object, texts: Sequence[str], length: int) -> list[np.ndarray]:
    return [np.asarray(tokenizer(text)["input_ids"][:length]) for text in texts]  # type: ignore[operator]


@app.command()
def run(
    model_folder: Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face model directory.")],
    xquad: Annotated[Path, typer.Argument(metavar="XQUAD", help="Folder of xquad.en.json and the other languages.")],
    half: Annotated[str, typer.Option(help="Half of XQuAD that masks are judged on: development or test.")] = (
        "development"
    ),
    rules: Annotated[list[str] | None, typer.Option("--rule", help="Only these rules (all by default).")] = None,
    documents: Annotated[int, typer.Option(help="Paragraphs per language for the statistics.")] = 32,
    judged: Annotated[int, typer.Option(help="Paragraphs per language that masks are judged on.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens at which paragraphs are cut.")] = 80,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the results go.")] = RESULTS,
) -> None:
    """Cost for the worst other language where the target has lost 0.5, 1 and 2 nats per token, for every rule.

    Statistics are from the first paragraphs of the half for development; masks are judged on the last of it, or on
    the first of the test half. Writes selector-HALF.csv and selector-HALF-machine.json to DIR.
    """
    for name in rules or ():
        if name not in RULES:
            raise CraneError(f"--rule {name}: unknown rule; known: {', '.join(RULES)}")
    if half not in HALVES:
        raise CraneError(f"--half {half}: expected {' or '.join(HALVES)}")
    model, tokenizer = load_model(model_folder, device="auto", dtype=dtype)
    texts = {k: one.paragraphs for k, one in read_xquad({k: json_file(xquad, k) for k in LANGUAGES}).items()}
    places = HALVES[half][-judged:] if half == "development" else HALVES[half][:judged]
    own = {k: _ids(tokenizer, texts[k][:documents], length) for k in LANGUAGES}
    values = Measured(unit_values({k: stream_statistics(model, ids) for k, ids in own.items()}), model, own)
    judge = Judge(model, {k: _ids(tokenizer, [texts[k][place] for place in places], length) for k in LANGUAGES})
    found: list[Response] = []
    for name in rules or RULES:
        for language, scores in RULES[name](values).items():
            doses = [dose for dose in DOSES if dose <= scores.size]
            nll = judge.curve(scores, LANGUAGES.index(language), doses)
            found.append(judge.response(name, language, doses, nll, units=scores.size))
        tables = [damage_table(found[start : start + len(LANGUAGES)]) for start in range(0, len(found), len(LANGUAGES))]
        write_frame(output / f"selector-{half}.csv", pd.concat(tables))  # after every rule: it takes hours on a CPU
        print(tables[-1][SHOWN].round(3).to_string(index=False))
    write_json(output / f"selector-{half}-machine.json", vars(machine_facts()))


if __name__ == "__main__":
    run_command(app)
