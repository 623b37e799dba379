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
from crane_lib.interventions import masked
from crane_lib.models import load_model
from crane_lib.neurons import NeuronSet
from crane_lib.nll import document_nll
from crane_lib.relevance.corpus import stream_statistics
from crane_lib.relevance.statistics import Statistics
from crane_lib.selection import Scores, lape_scores, marked_indices, normalized_contrast, top
from crane_study.data.xquad import HALVES, json_file, read_xquad
from crane_study.frames import write_frame
from crane_study.uncertainty.matched_damage import DAMAGES, at_damage

LANGUAGES = ("en", "zh", "vi")
DOSES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # silenced neurons
RESULTS = Path(__file__).resolve().parent / "results"
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
}


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


class Judge:
    """Rises of the NLL under masks, by language."""

    def __init__(self, model: PreTrainedModel, documents: dict[str, list[list[int]]]) -> None:
        self._model, self._documents = model, documents
        self._unmasked = self._nll()

    def _nll(self) -> np.ndarray:
        """NLL per token of every language."""
        sums = [document_nll(self._model, texts, token_budget=2048) for texts in self._documents.values()]
        return np.array([nll.sum() / tokens.sum() for nll, tokens in sums])

    def rise(self, chosen: np.ndarray) -> np.ndarray:
        """Rise (languages,) of the NLL with the neurons zeroed that a boolean array (L, I) marks."""
        neurons = NeuronSet(sites={"neuron": marked_indices(chosen)}, widths={"neuron": chosen.shape[1]})
        with masked(self._model, neurons):
            return self._nll() - self._unmasked

    def curve(self, scores: np.ndarray, own: int, doses: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Doses from 0 up to the first that reaches the largest damage, and the rises (doses, languages) there."""
        rises, used = [np.zeros(len(self._documents))], [0]
        for dose in doses:
            rises.append(self.rise(top(scores, dose)))
            used.append(dose)
            if rises[-1][own] >= max(DAMAGES):
                break
        return np.array(used), np.stack(rises)


def matched_rows(rule: str, language: str, doses: np.ndarray, rises: np.ndarray) -> list[dict[str, object]]:
    """Rise of the worst other language, and silenced neurons, at every damage of one rule and language."""
    own = LANGUAGES.index(language)
    values = np.column_stack([np.delete(rises, own, axis=1), doses])
    found, _reached = at_damage(rises[None, :, own], values[None], DAMAGES)
    return [
        {"rule": rule, "language": language, "damage": damage, "worst": row[:-1].max(), "neurons": row[-1]}
        for damage, row in zip(DAMAGES, found[0], strict=True)
    ]


def _ids(tokenizer: object, texts: Sequence[str], length: int) -> list[list[int]]:
    return [tokenizer(text)["input_ids"][:length] for text in texts]  # type: ignore[operator]


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
    statistics = {
        language: stream_statistics(model, _ids(tokenizer, own[:documents], length)) for language, own in texts.items()
    }
    values = unit_values(statistics)
    judge = Judge(model, {k: _ids(tokenizer, [own[place] for place in places], length) for k, own in texts.items()})
    rows: list[dict[str, object]] = []
    for name in rules or RULES:
        for language, scores in RULES[name](values).items():
            rows += matched_rows(name, language, *judge.curve(scores, LANGUAGES.index(language), DOSES))
    frame = pd.DataFrame(rows)
    write_frame(output / f"selector-{half}.csv", frame)
    write_json(output / f"selector-{half}-machine.json", vars(machine_facts()))
    print(frame.pivot_table(index="rule", columns=["language", "damage"], values="worst").round(2).to_string())


if __name__ == "__main__":
    run_command(app)
