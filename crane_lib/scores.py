"""Scores of neurons and rows per language, read from the statistics of the relevance stage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint
from crane_lib.neurons import HEAD, NEURON, NeuronSet
from crane_lib.relevance import Statistics
from crane_lib.selection import Chosen, row_sites

GRADIENT = "gradient"
ACTIVATIONS = "activations"  # of single documents


def statistics_file(folder: str | os.PathLike[str], objective: str, language: str) -> Path:
    """File of the statistics of a language under an objective, or of a kind of values of single documents."""
    return Path(folder) / f"{objective}.{language}.safetensors"


def load_statistics(folder: str | os.PathLike[str], objective: str, languages: list[str]) -> dict[str, Statistics]:
    """Statistics of every language under one objective."""
    return {language: Statistics.load(statistics_file(folder, objective, language)) for language in languages}


def check_same_model(statistics: dict[str, Statistics]) -> str:
    """Fingerprint of the model that all statistics come from.

    Raises
    ------
    CraneError : they come from several models
    """
    models = {item.provenance["model"] for item in statistics.values()}
    if len(models) != 1:
        raise CraneError(f"the statistics come from several models: {sorted(models)}; compute them again")
    return models.pop()


def unit_means(statistics: Mapping[str, Statistics], site: str) -> dict[str, np.ndarray]:
    """Mean over documents of every unit of a site: language -> (L, units)."""
    return {language: item.moments[site].mean.numpy() for language, item in statistics.items()}


def row_kurtosis(statistics: Mapping[str, Statistics]) -> dict[str, dict[str, np.ndarray]]:
    """Excess kurtosis over documents of every row: language -> site -> (L, rows)."""
    return {
        language: {site: item.moments[site].excess_kurtosis().numpy() for site in row_sites(item.moments)}
        for language, item in statistics.items()
    }


class NotOfHeads(Mapping[str, Any]):
    """Values that attention heads do not have: a method that reads them is refused."""

    def __getitem__(self, language: str) -> Any:
        raise CraneError("attention heads neither fire nor have rows: this method selects neurons only")

    def __iter__(self) -> Iterator[str]:
        return self[""]

    def __len__(self) -> int:
        return self[""]


@dataclass(frozen=True)
class UnitScores:
    """Scores of the units of one model under one objective, by language: of its neurons, or of its attention heads.

    Attributes
    ----------
    model, layers, widths : fingerprint of the model, number of layers, and units per layer by site
    neuron, absolute : mean relevance of neurons, and mean of its absolute value  (L, I)
    gradient : mean of gradient times activation  (L, I)
    firing : share of tokens at which a neuron's activation is positive  (L, I)
    magnitude : mean over tokens of |h|, the input of `down_proj`  (L, I)
    output : `magnitude` times the norm of the neuron's column of `down_proj`: the mean length of what it adds  (L, I)
    norms : norm of every neuron's column of `down_proj`  (L, I)
    kurtosis : `row_kurtosis`
    documents : folder of the values of single documents, see `document_values`; None without them
    site : ``neuron``, or ``head``: neurons are then heads, h is the part of the output projection's input that is the
        head's, |h| its Euclidean norm, and the norm of its columns their root mean square, so that `output` is an
        estimate. `firing` and `kurtosis` cannot be read, and there are no values of single documents.
    corpus : fingerprint of the texts of all languages
    """

    model: str
    layers: int
    widths: dict[str, int]
    neuron: dict[str, np.ndarray]
    absolute: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]
    firing: dict[str, np.ndarray]
    magnitude: dict[str, np.ndarray]
    output: dict[str, np.ndarray]
    norms: np.ndarray
    kurtosis: dict[str, dict[str, np.ndarray]]
    documents: str | os.PathLike[str] | None = None
    site: str = NEURON
    corpus: str = ""

    @classmethod
    def read(
        cls,
        relevance: str | os.PathLike[str],
        *,
        objective: str,
        languages: list[str],
        documents: str | os.PathLike[str] | None = None,
        site: str = NEURON,
    ) -> UnitScores:
        """Read the scores of neurons (or heads) from the folder of the relevance stage, and of single documents.

        Raises
        ------
        CraneError : the statistics are missing, or come from several models
        """
        statistics = load_statistics(relevance, objective, languages)
        first = statistics[languages[0]]
        heads = site == HEAD
        magnitude = {language: item.magnitude.numpy() / item.tokens for language, item in statistics.items()}
        norms = (first.head_norms if heads else first.norms).numpy()
        if heads:
            scale = {language: item.documents / item.tokens for language, item in statistics.items()}
            magnitude = {k: mean * scale[k] for k, mean in unit_means(statistics, "head_magnitude").items()}
        firing = {language: item.active.double().numpy() / item.tokens for language, item in statistics.items()}
        absent: Any = NotOfHeads()
        return cls(
            model=check_same_model(statistics),
            layers=first.moments[NEURON].shape[0],
            widths={name: first.moments[name].shape[-1] for name in (NEURON, *row_sites(first.moments), HEAD)},
            neuron=unit_means(statistics, site),
            absolute=unit_means(statistics, f"abs_{site}"),
            gradient=unit_means(load_statistics(relevance, GRADIENT, languages), site),
            firing=absent if heads else firing,
            magnitude=magnitude,
            output={language: values * norms for language, values in magnitude.items()},
            norms=norms,
            kurtosis=absent if heads else row_kurtosis(statistics),
            documents=None if heads else documents,
            site=site,
            corpus=fingerprint({language: item.corpus for language, item in statistics.items()}),
        )

    def has(self, needs: str) -> bool:
        """Return whether there are the values of single documents that a method needs, if it needs any."""
        if not needs or self.documents is None:
            return not needs
        return all(statistics_file(self.documents, needs, language).is_file() for language in self.neuron)

    def document_values(self, name: str, *, kind: str = ACTIVATIONS) -> dict[str, np.ndarray]:
        """Values of single documents by language  (documents, L, I).

        Parameters
        ----------
        kind, name : of ``activations``: "mean" of h over tokens, and "size", its root mean square; of ``slopes``:
            "relevance", and "slope", the sum of dS/dh; of ``integrated``: "integrated" gradients times activations;
            of ``gates``, which are of all documents together: "closed"  (L, I)

        Raises
        ------
        CraneError : they were not computed
        """
        if self.documents is None or not self.has(kind):
            raise CraneError(f"{kind} of single documents are missing; give UnitScores.read the folder of them")
        return {k: load_file(statistics_file(self.documents, kind, k))[name] for k in self.neuron}

    def sets(self, method: str, budget: str, chosen: Mapping[str, Chosen], *, draw: int = -1) -> list[NeuronSet]:
        """Neuron sets of what was chosen, one per language."""
        labels: dict[str, Any] = {"model": self.model, "method": method, "budget": budget, "random_seed": draw}
        labels["corpus"] = self.corpus
        return [
            NeuronSet(sites, {site: self.widths[site] for site in sites}, language=language, **labels)
            for language, sites in chosen.items()
        ]
