"""Neuron sets: the units that a method selects for a language, as a value and as a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crane_lib.errors import CraneError
from crane_lib.files import read_json, write_json
from crane_lib.version import VERSION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMA = "crane.neurons/2"
_SCHEMAS = ("crane.neurons/1", SCHEMA)  # the first says in its notes what the second has fields for
NEURON = "neuron"  # the site of the hidden activation
HEAD = "head"  # the site of attention heads; the others are rows
SITES = (NEURON, "gate", "up", "down", HEAD)


@dataclass(frozen=True)
class NeuronSet:
    """Units of one model.

    Attributes
    ----------
    sites : sorted indices (int64) by site and layer. ``neuron`` is an index of the MLP's hidden activation; ``gate``,
        ``up`` and ``down`` are output rows of those matrices (the unit of the released code); ``head`` is an attention
        head, numbered as its queries are.
    widths : number of units per layer, by site
    model : fingerprint of the weights that the set was selected on (`fingerprint_weights`)
    revision, tokenizer, corpus : commit of the model on the hub, hash of the tokenizer's vocabulary, and fingerprint of
        the texts; empty where they are not known
    library : version of this library that made the set
    """

    sites: Mapping[str, Sequence[np.ndarray]]
    widths: Mapping[str, int]
    model: str = ""
    method: str = ""
    budget: str = ""
    language: str = ""
    random_seed: int = -1
    notes: Mapping[str, Any] = field(default_factory=dict)
    revision: str = ""
    tokenizer: str = ""
    corpus: str = ""
    library: str = VERSION

    @property
    def layers(self) -> int:
        """Number of layers of the model."""
        return len(next(iter(self.sites.values())))

    def count(self) -> int:
        """Number of units in the set."""
        return int(sum(len(indices) for layers in self.sites.values() for indices in layers))

    def share(self) -> float:
        """Share of the units at the set's sites that are in the set."""
        total = sum(self.widths[site] * self.layers for site in self.sites)
        return self.count() / total

    def killed(self) -> int:
        """Number of neurons that the mask silences: a gate or up row silences its neuron, a down row or a head none."""
        sites = [self.sites[site] for site in (NEURON, "gate", "up") if site in self.sites]
        return sum(len(np.unique(np.concatenate(layers))) for layers in zip(*sites, strict=True))

    def killed_share(self) -> float:
        """Share of the model's neurons that the mask silences."""
        widths = [self.widths[site] for site in (NEURON, "gate", "up") if site in self.sites]
        return self.killed() / (widths[0] * self.layers) if widths else 0.0

    def flat(self) -> np.ndarray:
        """Sorted numbers of the units, unique over sites and layers."""
        numbers, offset = [], 0
        for site in SITES:
            for indices in self.sites.get(site, ()):
                numbers.append(np.asarray(indices, dtype=np.int64) + offset)
                offset += self.widths[site]
        return np.sort(np.concatenate(numbers)) if numbers else np.empty(0, dtype=np.int64)

    def check(self, model: PreTrainedModel, *, source: str = "neuron set") -> None:
        """Check that the set can be masked in `model`.

        Raises
        ------
        CraneError : the model has other layers or widths
        """
        from crane_lib.relevance.modules import parts_of  # here, so that tables and figures start without torch

        parts = parts_of(model)
        seen = parts.widths
        name = model.config._name_or_path or type(model).__name__
        made_for = f"this set was made for {self.model!r}, the model is {name!r}"
        if self.layers != len(parts.layers):
            raise CraneError(f"{source}: has {self.layers} layers, the model {len(parts.layers)}; {made_for}")
        for site, layers in self.sites.items():
            if site not in seen:
                raise CraneError(f"{source}: has units at {site}, the model's layers have none; {made_for}")
            for layer, indices in enumerate(layers):
                if len(indices) and (np.min(indices) < 0 or np.max(indices) >= seen[site]):
                    worst = int(np.min(indices) if np.min(indices) < 0 else np.max(indices))
                    raise CraneError(
                        f"{source}: {site} of layer {layer}, index {worst} is out of range for a width of "
                        f"{seen[site]}; {made_for}"
                    )
            if self.widths[site] != seen[site]:
                raise CraneError(f"{source}: {site} is {self.widths[site]} wide, in the model {seen[site]}; {made_for}")


_LABELS = ("model", "method", "budget", "language", "random_seed")
_ORIGIN = ("revision", "tokenizer", "corpus", "library")  # since the second schema


def write_neuron_sets(path: str | os.PathLike[str], sets: Sequence[NeuronSet]) -> None:
    """Write sets to a JSON file."""
    entries = [
        {label: getattr(item, label) for label in (*_LABELS, *_ORIGIN)}
        | {"widths": dict(item.widths), "notes": dict(item.notes)}
        | {"sites": {site: [np.asarray(i).tolist() for i in layers] for site, layers in item.sites.items()}}
        for item in sets
    ]
    write_json(path, {"schema": SCHEMA, "sets": entries})


def _read_set(entry: Any) -> NeuronSet:
    """Set of an entry in a file; KeyError, TypeError or ValueError if the entry is malformed."""
    unknown = set(entry["sites"]) - set(SITES)
    if unknown:
        raise ValueError(f"unknown site {sorted(unknown)[0]!r}; known: {', '.join(SITES)}")
    sites: dict[str, list[np.ndarray]] = {site: [] for site in entry["sites"]}
    for site, layers in entry["sites"].items():
        for layer in layers:
            if not isinstance(layer, list) or not all(type(index) is int for index in layer):
                raise TypeError("the indices of a layer are not a list of whole numbers")
            sites[site].append(np.unique(np.array(layer, dtype=np.int64)))
    if len({len(layers) for layers in sites.values()}) != 1:
        raise ValueError("expected one site or more, all of as many layers")
    widths = {site: entry["widths"][site] for site in sites}
    if not all(type(width) is int for width in widths.values()):
        raise TypeError("a width is not a whole number")
    notes = entry.get("notes", {})
    if not isinstance(notes, dict):
        raise TypeError("its notes are no object")
    labels = {label: entry[label] for label in _LABELS} | {name: entry.get(name, "") for name in _ORIGIN}
    if wrong := [name for name in labels if type(labels[name]) is not (int if name == "random_seed" else str)]:
        raise TypeError(f"{wrong[0]} is {labels[wrong[0]]!r}")
    labels["tokenizer"] = labels["tokenizer"] or str(notes.get("tokenizer", ""))
    return NeuronSet(sites=sites, widths=widths, notes=notes, **labels)


def read_neuron_sets(path: str | os.PathLike[str]) -> list[NeuronSet]:
    """Read sets written by `write_neuron_sets`.

    Raises
    ------
    CraneError : no such file, another schema, or a set that is not lists of indices
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") not in _SCHEMAS:
        seen = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise CraneError(f"{path}: is not a file of neuron sets (expected schema {SCHEMA!r}, saw {seen!r})")
    if not isinstance(value.get("sets"), list):
        raise CraneError(f"{path}: has no list 'sets'; write the file again")
    sets = []
    for number, entry in enumerate(value["sets"]):
        try:
            sets.append(_read_set(entry))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CraneError(f"{path}: set {number} is malformed ({type(error).__name__}: {error})") from error
    return sets


def read_all_sets(folder: str | os.PathLike[str]) -> list[NeuronSet]:
    """Sets of all files ``<method>@<budget>.json`` in a folder, ordered by file name."""
    return [item for path in sorted(Path(folder).glob("*@*.json")) for item in read_neuron_sets(path)]
