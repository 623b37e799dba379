"""Selectivity at matched damage: costs for the other languages once the masked language has lost a given amount.

Damage is the rise of the NLL (nats per token) of the masked language. A method's doses are the shares of the neurons
that its masks silence, from the unmasked model (dose 0, no rise) upwards. Between two neighbouring doses everything is
linear in the damage, and the first crossing of the wanted damage counts; a damage that the largest dose does not reach
is not extrapolated. Rises are means over random draws. Intervals come from resampled documents: the crossing is found
again in every resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from crane_study.measure.rows import MASK
from crane_study.uncertainty.bootstrap import Resampled, interval

DAMAGES = (0.5, 1.0, 2.0)  # nats per token


@dataclass(frozen=True)
class Response:
    """Rises of the NLL under one method's masks of one language, from dose 0 upwards.

    Shapes, with D doses, K languages and B resamples: doses, killed (D,), measured (D, K), draws (B, D, K).
    """

    method: str
    language: str
    languages: tuple[str, ...]
    doses: np.ndarray
    killed: np.ndarray
    measured: np.ndarray
    draws: np.ndarray

    @property
    def own(self) -> int:
        """Place of the masked language."""
        return self.languages.index(self.language)


@dataclass(frozen=True)
class Matched:
    """Costs of a method at each of T damages: as measured (T,), and in B resamples (B, T); NaN if not reached.

    `dose` and `killed` are the share and the number of silenced neurons; `worst` and `mean` the largest and the mean
    rise of another language.
    """

    dose: np.ndarray
    killed: np.ndarray
    worst: np.ndarray
    mean: np.ndarray
    worst_language: list[str]
    dose_draws: np.ndarray
    worst_draws: np.ndarray
    mean_draws: np.ndarray


def at_damage(
    damage: np.ndarray, values: np.ndarray, targets: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values where the damage first reaches each target, linear in the damage between neighbouring doses.

    damage : (B, D), 0 at the first dose;  values : (B, D, V);  targets : (T,), above 0
    Returns (B, T, V), and whether the target is reached (B, T); values are NaN where it is not.
    """
    wanted = np.asarray(targets, dtype=float)
    above = damage[:, None, :] >= wanted[:, None]  # (B, T, D)
    reached = np.asarray(above.any(axis=-1))
    after = np.maximum(above.argmax(axis=-1), 1)  # the first dose has no damage
    rows = np.arange(len(damage))[:, None]
    low, high = damage[rows, after - 1], damage[rows, after]
    share = np.divide(wanted - low, high - low, out=np.zeros_like(low), where=reached)
    found = values[rows, after - 1] + share[..., None] * (values[rows, after] - values[rows, after - 1])
    return np.where(reached[..., None], found, np.nan), reached


def responses(found: Resampled, killed: pd.DataFrame, methods: Sequence[str]) -> list[Response]:
    """Dose-response of every method and masked language, from resampled NLL and the rows of masks.csv.

    Only masks at a numeric budget are doses.
    """
    counts = killed.assign(budget=killed["budget"].astype(str)).drop(columns="masked_share")
    masks = found.masks.merge(counts, on=[name for name in MASK if name != "masked_share"], how="left", validate="1:1")
    numeric = pd.to_numeric(masks["budget"], errors="coerce").notna()
    rise, drawn = found.measured - found.unmasked, found.draws - found.unmasked_draws[:, None]
    result = []
    for (method, language), part in masks[numeric & masks["method"].isin(methods)].groupby(
        ["method", "masked_language"], sort=False
    ):
        doses = part.groupby("budget")[["killed_share", "killed"]].mean().sort_values("killed_share")
        places = [part.index[part["budget"] == budget] for budget in doses.index]
        measured = np.stack([rise[place].mean(axis=0) for place in places])
        draws = np.stack([drawn[:, place].mean(axis=1) for place in places], axis=1)
        result.append(
            Response(
                method=str(method),
                language=str(language),
                languages=found.languages,
                doses=np.append(0.0, doses["killed_share"]),
                killed=np.append(0.0, doses["killed"]),
                measured=np.concatenate([np.zeros((1, len(found.languages))), measured]),
                draws=np.concatenate([np.zeros((len(draws), 1, len(found.languages))), draws], axis=1),
            )
        )
    return result


def match(response: Response, damages: Sequence[float] | np.ndarray = DAMAGES) -> Matched:
    """Dose and rise of the other languages at each damage, as measured and in every resample."""
    own, others = response.own, [place for place in range(len(response.languages)) if place != response.own]
    rises = np.concatenate([response.measured[None], response.draws])  # as measured first
    doses = np.broadcast_to(np.stack([response.doses, response.killed], axis=-1), (*rises.shape[:2], 2))
    values, _reached = at_damage(rises[..., own], np.concatenate([rises[..., others], doses], axis=-1), damages)
    other, dose = values[..., :-2], values[..., -2:]
    worst, mean = other.max(axis=-1), other.mean(axis=-1)
    names = [response.languages[others[place]] for place in other[0].argmax(axis=-1)]
    named = ["" if np.isnan(value) else name for name, value in zip(names, worst[0], strict=True)]
    dose_draws = dose[1:, :, 0]
    return Matched(dose[0, :, 0], dose[0, :, 1], worst[0], mean[0], named, dose_draws, worst[1:], mean[1:])


def share_reached(draws: np.ndarray) -> np.ndarray:
    """Share of the resamples (B, T) that reach each damage."""
    return np.isfinite(draws).mean(axis=0)


def mean_over(matched: Sequence[Matched]) -> Matched:
    """Mean over languages; NaN where one of them does not reach the damage."""

    def mean(name: str) -> np.ndarray:
        return np.mean([getattr(one, name) for one in matched], axis=0)

    names = ("dose", "killed", "worst", "mean", "dose_draws", "worst_draws", "mean_draws")
    values = {name: mean(name) for name in names}
    return Matched(**values, worst_language=[""] * len(values["dose"]))


def limits(draws: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of draws (B, T) that have a value; NaN where nothing was measured."""
    low, high = interval(draws)
    absent = np.isnan(measured)
    return np.where(absent, np.nan, low), np.where(absent, np.nan, high)
