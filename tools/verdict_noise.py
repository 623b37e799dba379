"""Noise of rounding, and the verdicts under it: two Markdown tables.

    python -m tools.verdict_noise artifacts/mini OTHER/mini ... --draws 100

The runs are of one profile and of equal weights, with other instruction sets, numbers of threads or sizes of batches.
The first table gives how far the others are from the first: every document's NLL under a mask (relative), the margin
of every question (nats), scores of units (of the root mean square of all of their kind), and the units of all sets.
The second gives the verdicts that change where noise of the largest size seen, normal, and a hundred times as much is
added to all of these numbers of the first run: sets, overlaps and their reliability are made again from the scores,
answers from the margins, and claims judged again. docs/verification.md shows both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks.measurement import run_command
from crane_lib.errors import CraneError
from crane_lib.neurons import read_all_sets
from crane_lib.scores import UnitScores
from crane_run.manifest import Manifest, read_manifest
from crane_study.frames import read_frame
from crane_study.paper.claims import Results, judge, load_rules
from crane_study.paper.verdicts import read_claims
from crane_study.profile import Profile
from crane_study.steps.relevance import half_folder
from crane_study.steps.reliability import shared_by
from crane_study.steps.selection import select_all
from crane_study.tables.overlap import overlaps
from crane_study.uncertainty.bootstrap import Resampled, resample_documents, resample_items
from crane_study.uncertainty.overlap import as_neurons

Arrays = dict[str, np.ndarray]
_SCORES = ("neuron", "absolute", "gradient", "firing", "magnitude")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Noise:
    """Sizes of differences: of NLLs (relative), margins (nats), scores by kind (of their root mean square); of sets."""

    nll: float = 0.0
    margin: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    units: int = 0

    def __mul__(self, factor: float) -> Noise:
        return Noise(self.nll * factor, self.margin * factor, {k: size * factor for k, size in self.scores.items()})

    def __or__(self, other: Noise) -> Noise:
        scores = {kind: max(size, other.scores.get(kind, 0.0)) for kind, size in self.scores.items()}
        return Noise(max(self.nll, other.nll), max(self.margin, other.margin), scores)


class Measured:
    """Measurements behind the verdicts of a finished run, read from the files of its stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest: Manifest = read_manifest(folder)
        self.weights = sorted(value for model in manifest.models.values() for value in model.weights.values())
        self.profile = Profile.model_validate(manifest.profile)
        stages = folder / "stages"
        self.names = [name for name in ("base", "chat") if (stages / f"perplexity_{name}").is_dir()]
        self.documents = {name: self._with_back(f"perplexity_{name}", "documents") for name in self.names}
        self.items = {
            name: self._with_back(f"nlu_{name}", "items") for name in self.names if (stages / f"nlu_{name}").is_dir()
        }
        relevance = stages / "relevance_base"
        halves = [half_folder(relevance, 2, side) for side in "ab"]
        self.parts = [relevance, *(path for path in halves if path.is_dir())]
        given: dict[str, Any] = {
            "objective": self.profile.relevance.objectives[0],
            "languages": list(self.documents["base"]["evaluation_language"].unique()),
        }
        self.scores = [UnitScores.read(path, **given) for path in self.parts]
        self.reliability = read_frame(stages / "reliability" / "reliability.csv")
        self.sets = {
            (item.method, item.budget, item.language): as_neurons(item)
            for item in read_all_sets(stages / "selection_base")
            if not item.method.startswith("random")
        }

    def _with_back(self, stage: str, file: str) -> pd.DataFrame:
        """Rows of a stage; of the base model also those under the chat model's sets."""
        frames = [read_frame(self.folder / "stages" / stage / f"{file}.parquet")]
        back = self.folder / "stages" / stage.replace("_base", "_back") / f"{file}.parquet"
        if stage.endswith("_base") and back.is_file():
            frames += [(frame := read_frame(back))[frame["method"] != "none"]]
        return pd.concat(frames, ignore_index=True)


def score_arrays(scores: UnitScores) -> Iterator[tuple[str, Arrays]]:
    """Yield the arrays of each kind of score, by language."""
    for name in _SCORES:
        yield name, getattr(scores, name)
    for site in next(iter(scores.kurtosis.values())):
        yield f"kurtosis of {site}", {language: sites[site] for language, sites in scores.kurtosis.items()}


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values[np.isfinite(values)]))))


def difference(run: Measured, other: Measured) -> Noise:
    """Largest differences of another run."""
    if other.weights != run.weights:
        raise CraneError(f"{other.folder}: its models are not those of {run.folder}; compare runs of equal weights")
    nll = margin = 0.0
    scores: dict[str, float] = {}
    for name, frame in run.documents.items():
        found = (other.documents[name]["nll"] / frame["nll"] - 1).abs()
        nll = max(nll, float(found.max()))
    for name, frame in run.items.items():
        margin = max(margin, float((other.items[name]["margin"] - frame["margin"]).abs().max()))
    for (kind, ours), (_kind, theirs) in zip(score_arrays(run.scores[0]), score_arrays(other.scores[0]), strict=True):
        for language, values in ours.items():
            off = float(np.nanmax(np.abs(theirs[language] - values))) / _size(values)
            scores[kind] = max(scores.get(kind, 0.0), off)
    units = 0
    for key, own in run.sets.items():
        for a, b in zip(own.sites["neuron"], other.sets[key].sites["neuron"], strict=True):
            units += len(np.setxor1d(a, b))
    return Noise(nll, margin, scores, units)


class Verdicts:
    """Verdicts of a run under noise."""

    def __init__(self, run: Measured) -> None:
        self._run = run
        self._rules = load_rules()
        self._budget = f"{run.profile.selection.budget:g}"
        kinds = self._rules["methods"]
        self._judged = {(name, self._budget if kind == "common" else str(kind)) for name, kind in kinds.items()}
        self.expected = {self._name(item): item["verdict"] for item in read_claims(run.folder / "claims.json")}
        if (found := self.draw(Noise(), np.random.default_rng(0)))[0] != self.expected:
            wrong = [name for name, verdict in self.expected.items() if found[0].get(name) != verdict]
            raise CraneError(f"{run.folder}: without noise {len(wrong)} verdicts are not its own, such as {wrong[0]}")

    @staticmethod
    def _name(item: dict[str, Any]) -> str:
        return " ".join(part for part in (item["id"], item["method"], item["measure"]) if part)

    def draw(self, noise: Noise, generator: np.random.Generator) -> tuple[dict[str, str], int, int]:
        """Verdicts under one draw of noise, the answers that it turned, and the units of the judged sets it changed."""
        run, turned = self._run, 0
        scores: dict[tuple[str, str], Resampled] = {}
        seed = run.profile.random_seed
        for name, frame in run.documents.items():
            drawn = frame.assign(nll=frame["nll"] * (1 + noise.nll * generator.standard_normal(len(frame))))
            scores[name, "token_probability"] = resample_documents(drawn, random_seed=seed)
        for name, frame in run.items.items():
            margin = frame["margin"] + noise.margin * generator.standard_normal(len(frame))
            turns = (margin > 0) != (frame["margin"] > 0)
            turned += int(turns.sum())
            scores[name, "accuracy"] = resample_items(frame.assign(correct=frame["correct"] ^ turns), random_seed=seed)
        chosen = [self._chosen(one, noise, generator) for one in run.scores]
        whole = [as_neurons(item) for key in self._judged for item in run.scores[0].sets(*key, chosen[0][key])]
        changed = sum(
            len(np.setxor1d(a, b))
            for item in whole
            for a, b in zip(
                item.sites["neuron"],
                run.sets[item.method, item.budget, item.language].sites["neuron"],
                strict=True,
            )
        )
        reliability = run.reliability
        if len(chosen) == 3:
            first, second = zip(run.scores[1:], chosen[1:], strict=True)
            reliability = shared_by(first, second, share=0.5)
        found = judge(Results(scores, overlaps(whole), reliability), budget=self._budget, rules=self._rules)
        return {self._name(item): item["verdict"] for item in found}, turned, changed

    def _chosen(self, scores: UnitScores, noise: Noise, generator: np.random.Generator) -> Any:
        """Sets of the judged methods from scores with noise."""
        drawn = copy.deepcopy(scores)
        for kind, arrays in score_arrays(drawn):
            for values in arrays.values():
                size = noise.scores.get(kind, 0.0) * _size(values)
                values += size * generator.standard_normal(values.shape)
        drawn = replace(drawn, output={k: magnitude * drawn.norms for k, magnitude in drawn.magnitude.items()})
        found = select_all(drawn, [method for method, _budget in self._judged], self._run.profile.selection)
        return {key: found[key] for key in self._judged}


def under_noise(verdicts: Verdicts, noise: Noise, *, draws: int) -> dict[str, Any]:
    """One row of the table: verdicts that a draw of noise changed, over all draws."""
    changed: dict[str, int] = {}
    turned, units = [], []
    for draw in range(draws):
        found, answers, moved = verdicts.draw(noise, np.random.default_rng([draw, 7]))
        turned.append(answers)
        units.append(moved)
        for name, verdict in found.items():
            if verdict != verdicts.expected[name]:
                changed[name] = changed.get(name, 0) + 1
    named = "; ".join(f"{name} in {count}" for name, count in changed.items())
    return {
        "draws": draws,
        "answers turned, most": max(turned),
        "units changed, most": max(units),
        "verdicts judged": draws * len(verdicts.expected),
        "changed": sum(changed.values()),
        "which": named or "none",
    }


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, the reference first.")],
    draws: Annotated[int, typer.Option(min=1, help="Draws of noise.")] = 100,
    times: Annotated[list[float], typer.Option(help="Multiples of the largest noise seen.")] = [1.0, 100.0],  # noqa: B006
) -> None:
    """Compare runs of equal weights, and judge the claims of the first one under noise of the size seen."""
    if len(runs) < 2:
        raise CraneError("tools.verdict_noise: give two or more folders of finished runs, the reference first")
    run = Measured(runs[0])
    seen = {str(folder.parent.name): difference(run, Measured(folder)) for folder in runs[1:]}
    rows = [
        {"run": name, "NLL": one.nll, "margins": one.margin, **one.scores, "units of sets": one.units}
        for name, one in seen.items()
    ]
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1e"), flush=True)
    largest = reduce(or_, seen.values())
    verdicts = Verdicts(run)
    table = [{"noise": f"{factor:g} times", **under_noise(verdicts, largest * factor, draws=draws)} for factor in times]
    print(f"\n{pd.DataFrame(table).to_markdown(index=False)}")


if __name__ == "__main__":
    run_command(app)
