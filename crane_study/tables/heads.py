"""Tables of where a language lives: in MLP neurons or in attention heads, and in which layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from crane_lib.neurons import HEAD, NEURON
from crane_lib.relevance import Statistics
from crane_lib.selection import normalized_contrast
from crane_study.frames import read_frame
from crane_study.tables import in_study_order
from crane_study.tables.matched_damage import damage_table, dose_responses
from crane_study.uncertainty.bootstrap import Resampled, interval, resample_documents

UNITS = (NEURON, HEAD)


def where_table(statistics: Mapping[str, Statistics]) -> pd.DataFrame:
    """Share of a language's relevance and of its contrast in the neurons and in the heads of every layer.

    Of mean relevance and contrast, computed over neurons and heads together, the values above 0 count; the shares of a
    language add up to 1 over units and layers. A head is one unit: what its dimensions cancel is not counted.
    """
    joined = {
        language: np.concatenate([item.moments[unit].mean.numpy() for unit in UNITS], axis=1)
        for language, item in statistics.items()
    }
    width = next(iter(statistics.values())).moments[NEURON].shape[1]
    contrast, parts = normalized_contrast(joined), []
    for language in joined:
        columns = {}
        for name, values in (("relevance", joined[language]), ("contrast", contrast[language])):
            positive = np.maximum(values, 0.0)
            layers = np.stack([part.sum(axis=1) for part in np.split(positive, [width], axis=1)])  # (units, L)
            columns[name] = (layers / positive.sum()).ravel()
        unit, layer = np.indices(layers.shape)
        named = {"language": language, "unit": np.array(UNITS)[unit.ravel()], "layer": layer.ravel()}
        parts.append(pd.DataFrame({**named, **columns}))
    return in_study_order(pd.concat(parts, ignore_index=True), ["language"])


@dataclass(frozen=True)
class MaskedUnits:
    """NLL under masks of one unit under resampling, and the rows of masks.csv."""

    found: Resampled
    masks: pd.DataFrame

    @classmethod
    def read(cls, stage: Path, *, random_seed: int) -> dict[str, MaskedUnits]:
        """Read those of neurons and of heads; the same documents are drawn for both."""
        return {
            unit: cls(
                resample_documents(
                    read_frame(stage / unit / "documents.parquet"), metric="nll", random_seed=random_seed
                ),
                read_frame(stage / unit / "masks.csv", texts=["budget"]),
            )
            for unit in UNITS
        }


def unit_damage_table(units: Mapping[str, MaskedUnits]) -> pd.DataFrame:
    """Dose (a share of the weights) and rises of the other languages at equal damage, of neurons and of heads."""
    parts = [damage_table(dose_responses(one.found, one.masks)).assign(unit=unit) for unit, one in units.items()]
    table = pd.concat(parts, ignore_index=True)
    return table[["unit", *table.columns[:-1]]]


def unit_rises(units: Mapping[str, MaskedUnits]) -> pd.DataFrame:
    """Rise of the NLL per token in every language when neurons, or heads, of as many weights are masked.

    budget is the share of the layers' weights, killed the number of units. Random masks serve all languages (their
    masked_language is empty) and are means over draws. low and high are 95 % intervals over documents.
    """
    parts = []
    for unit, one in units.items():
        killed = one.masks.groupby("budget")["killed"].first()
        masks, random = one.found.masks, one.found.masks["random_seed"] >= 0
        labels = masks.assign(masked_language=masks["masked_language"].where(~random, ""))
        for keys, places in labels.groupby(["method", "budget", "masked_language"], sort=False).indices.items():
            rise = one.found.measured[places].mean(axis=0) - one.found.unmasked
            low, high = interval(one.found.draws[:, places].mean(axis=1) - one.found.unmasked_draws)
            named = dict(zip(("method", "budget", "masked_language"), keys, strict=True))
            values = {"evaluation_language": one.found.languages, "rise": rise, "low": low, "high": high}
            parts.append(pd.DataFrame({"unit": unit, **named, "killed": killed[keys[1]], **values}))
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(size=table["budget"].astype(float))
    order = ["method", "masked_language", "size", "evaluation_language"]
    table = in_study_order(table, order).drop(columns="size")
    return table.sort_values("unit", kind="stable", ascending=False, ignore_index=True)
