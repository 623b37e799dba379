"""Neuron sets of a user's own model: selected from statistics, and checked against the model that they are used on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_lib.files import sha256 as file_hash
from crane_lib.methods import Method
from crane_lib.neurons import HEAD, NEURON, NeuronSet, read_neuron_sets, write_neuron_sets
from crane_study.fingerprints import SEAL, sealed, whole_object
from crane_study.frames import read_frame
from crane_study.own.statistics_folder import read_info, read_units
from crane_study.store import RECORD
from crane_study.uncertainty.overlap import as_neurons, compare

if TYPE_CHECKING:
    from crane_lib.scores import UnitScores

_TOLD = ("model", "corpora", "objective", "rule")  # of the statistics, kept in the notes of a set
_ORIGIN = ("model", "revision", "tokenizer", "corpus", "library", "notes")  # of a set, kept with the scores
_COLUMNS = ["language", "site", "layer", "index", "score"]


def select_sets(
    folder: Path, method: Method, budget: float, *, unit: str = NEURON
) -> tuple[list[NeuronSet], pd.DataFrame]:
    """Select a method's set of neurons or heads of every language from a folder of statistics.

    Returns
    -------
    the sets, which say what they were selected on, and the scores of all units: columns language, site, layer, index,
    score, selected
    """
    info, units = read_info(folder), read_units(folder, site=unit)
    scores = method.scores(units)
    chosen = units.sets(method.name, f"{budget:g}", method.choose(scores, budget=budget, site=unit))
    notes = {name: info[name] for name in _TOLD}
    given = {"tokenizer": info["tokenizer"], "revision": info.get("revision", ""), "notes": notes}
    sets = [replace(item, **given) for item in chosen]
    table = score_table(scores, sets, unit=unit)
    table.attrs = sealed({"method": method.name, **{name: getattr(sets[0], name) for name in _ORIGIN}})  # Parquet keeps
    return sets, table


def sets_of_scores(path: Path, budget: float) -> list[NeuronSet]:
    """Select sets again from the scores of all units (`select_sets`), at another budget and without the statistics.

    Raises
    ------
    CraneError : the file is no Parquet file of scores, or lacks units
    """
    try:
        table = read_frame(path)
        if SEAL in table.attrs and table.attrs != sealed(table.attrs):
            raise ValueError("it was changed after it was written")
        ordered = table.sort_values(_COLUMNS[:-1], kind="stable")
        scores: dict[str, dict[str, np.ndarray]] = {}
        for (language, site), part in ordered.groupby(["language", "site"], sort=False):
            shape = int(part["layer"].max()) + 1, int(part["index"].max()) + 1
            if not np.array_equal(part[["layer", "index"]], np.argwhere(np.ones(shape, dtype=bool))):
                raise ValueError(f"{language} lacks units at {site}")
            scores.setdefault(str(language), {})[str(site)] = part["score"].to_numpy(dtype=float).reshape(shape)
    except (KeyError, ValueError) as error:
        raise CraneError(
            f"{path}: has no scores of all units, as crane select --scores writes them ({error})"
        ) from error
    kinds = {site for sites in scores.values() for site in sites}
    site = kinds.pop() if kinds in ({NEURON}, {HEAD}) else ""  # of rows
    name = str(table.attrs.get("method", "scores"))
    rule = Method(name, name, "", scores=lambda units: None, unit="neuron" if site else "row")
    chosen = rule.choose({k: own[site] if site else own for k, own in scores.items()}, budget=budget, site=site)
    origin = {key: value for key, value in table.attrs.items() if key in _ORIGIN}
    return [
        NeuronSet(
            sites, {s: scores[k][s].shape[1] for s in sites}, method=name, budget=f"{budget:g}", language=k, **origin
        )
        for k, sites in chosen.items()
    ]


def write_sets(path: Path, sets: Sequence[NeuronSet]) -> None:
    """Write a file of sets with the seal of its content."""
    write_neuron_sets(path, sets)
    write_json(path, sealed(read_json(path)))


def read_sets(path: Path) -> list[NeuronSet]:
    """Read a file of sets; one that is not as it was sealed is a CraneError."""
    sets, stage = read_neuron_sets(path), whole_object(path.with_name(RECORD)) or {}
    noted = stage.get("outputs", {}).get(path.name, {})  # of a file in a stage of a run
    about = read_json(path)  # has no seal if it comes from elsewhere
    if (SEAL in about and about != sealed(about)) or noted.get("sha256") not in (None, file_hash(path)):
        raise CraneError(
            f"{path}: was changed after it was written; select the sets again, or take its entry {SEAL!r} out if you "
            "changed it yourself"
        )
    return sets


def score_table(scores: Any, sets: Sequence[NeuronSet], *, unit: str = NEURON) -> pd.DataFrame:
    """Scores of all units by language, with a mark at those that were selected."""
    parts = []
    for item in sets:
        of_language = scores[item.language]
        by_site = of_language if isinstance(of_language, dict) else {unit: of_language}
        for site, values in by_site.items():
            layer, index = np.indices(values.shape)
            marked = np.zeros(values.shape, dtype=bool)
            for number, indices in enumerate(item.sites.get(site, ())):
                marked[number, indices] = True
            columns = {
                "layer": layer.ravel(),
                "index": index.ravel(),
                "score": values.ravel(),
                "selected": marked.ravel(),
            }
            parts.append(pd.DataFrame({"language": item.language, "site": site, **columns}))
    return pd.concat(parts, ignore_index=True)


def overlap_table(first: Sequence[NeuronSet], second: Sequence[NeuronSet]) -> pd.DataFrame:
    """Neurons shared by every two sets, one of each side, beside what chance gives.

    Raises
    ------
    CraneError : the sets are of models of different sizes
    """
    first, second = ([item if set(item.sites) == {HEAD} else as_neurons(item) for item in s] for s in (first, second))
    sizes = {(item.layers, *item.widths.values()) for item in [*first, *second]}
    if len(sizes) > 1:
        raise CraneError(f"the sets are of models of different sizes (layers and width): {sorted(sizes)}")
    rows = [{"first": _name(a), "second": _name(b), **compare(a, b)} for a in first for b in second]
    return pd.DataFrame(rows)


def _name(item: NeuronSet) -> str:
    draw = f" draw {item.random_seed}" if item.random_seed >= 0 else ""
    return f"{item.method} {item.budget} {item.language}{draw}"


def sets_for(
    path: Path, *, weights: str, tokenizer: str, revision: str = "", other_model: bool = False
) -> list[NeuronSet]:
    """Read sets, and check that they were selected on these weights and this tokenizer.

    The commits (`revision`) decide where a set does not say its weights. With `other_model` a difference is only
    told, on the error stream.

    Raises
    ------
    CraneError : the sets are of another model or tokenizer
    """
    sets = read_sets(path)
    for item in sets:
        made_for = item.notes.get("model") or item.model or item.revision
        differs = ""
        if item.model and item.model != weights:
            differs = f"was selected on {made_for}, whose weights (or --dtype) differ from this model's"
        elif not item.model and item.revision and revision not in ("", item.revision):
            differs = f"was selected on commit {item.revision} of the model, this one is {revision}"
        elif item.tokenizer not in ("", tokenizer):
            differs = "was selected with another tokenizer than this model's"
        if differs and not other_model:
            raise CraneError(f"{path}: {differs}; --other-model uses it nevertheless")
        if differs:
            print(f"note: {path}: {differs}; used nevertheless", file=sys.stderr)
            break
    return sets


def marked_neurons(sets: Sequence[NeuronSet], shape: tuple[int, int]) -> np.ndarray:
    """Mark the neurons (L, I) that any of the sets has or kills."""
    marked = np.zeros(shape, dtype=bool)
    for item in map(as_neurons, sets):
        for layer, indices in enumerate(item.sites["neuron"]):
            marked[layer, indices] = True
    return marked


def missing_needs(units: UnitScores, methods: Sequence[Method]) -> None:
    """Refuse methods whose values of single documents are not among the statistics."""
    for method in methods:
        if not units.has(method.needs):
            raise CraneError(
                f"method {method.name}: needs {method.needs} of single documents, which a study makes "
                f"(selection.methods of a profile), not crane relevance"
            )
