"""Central moments of many units over a stream of documents, in memory that does not grow with the stream."""

from __future__ import annotations

import torch
from torch import Tensor

from crane_lib.errors import CraneError

TENSORS = ("mean", "m2", "m3", "m4", "mean_absolute")


class Moments:
    """Count, mean, sums of the second to fourth power of deviations, and mean absolute value, per unit, in float64.

    The pieces of a stream may be merged in any order and grouping (Pebay, "Formulas for robust, one-pass parallel
    computation of covariances and arbitrary-order statistical moments", Sandia report SAND2008-6212, 2008).
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean, self.m2, self.m3, self.m4, self.mean_absolute = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in TENSORS
        )

    @classmethod
    def of(cls, batch: Tensor) -> Moments:
        """Moments of a batch (B, *shape) of B documents."""
        batch = batch.double()
        moments = cls(tuple(batch.shape[1:]), batch.device)
        moments.count = len(batch)
        if moments.count:
            moments.mean = batch.mean(0)
            moments.mean_absolute = batch.abs().mean(0)
            deviation = batch - moments.mean
            power = deviation * deviation
            moments.m2 = power.sum(0)
            moments.m3 = (power * deviation).sum(0)
            moments.m4 = power.square_().sum(0)
        return moments

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the units."""
        return tuple(self.mean.shape)

    def update(self, batch: Tensor) -> None:
        """Add a batch (B, *shape) of documents."""
        self.merge(Moments.of(batch))

    def merge(self, other: Moments) -> None:
        """Add what another stream saw; `other` stays as it is.

        Raises
        ------
        CraneError : the units have another shape
        """
        if self.shape != other.shape:
            raise CraneError(f"moments of units {self.shape} cannot take in moments of units {other.shape}")
        if not other.count:
            return
        a, b = self.count, other.count
        n = a + b
        delta = other.mean - self.mean
        step = delta / n
        # the highest moment first: each formula needs the lower moments of both parts as they were
        self.m4 = (
            self.m4
            + other.m4
            + delta * step**3 * (a * b * (a * a - a * b + b * b))
            + 6 * step**2 * (a * a * other.m2 + b * b * self.m2)
            + 4 * step * (a * other.m3 - b * self.m3)
        )
        self.m3 = self.m3 + other.m3 + delta * step**2 * (a * b * (a - b)) + 3 * step * (a * other.m2 - b * self.m2)
        self.m2 = self.m2 + other.m2 + delta * step * (a * b)
        self.mean = self.mean + step * b
        self.mean_absolute = self.mean_absolute + (other.mean_absolute - self.mean_absolute) * (b / n)
        self.count = n

    def variance(self) -> Tensor:
        """Unbiased variance over documents; NaN with fewer than two."""
        return self.m2 / (self.count - 1) if self.count > 1 else torch.full_like(self.m2, torch.nan)

    def excess_kurtosis(self) -> Tensor:
        """Bias-corrected excess kurtosis (Fisher), equal to `scipy.stats.kurtosis(bias=False)`.

        NaN where a unit is constant up to rounding; with two or three documents the uncorrected value, for there
        the correction is not defined: both as SciPy has it.
        """
        n = self.count
        if not n:
            return torch.full_like(self.mean, torch.nan)
        second, fourth = self.m2 / n, self.m4 / n
        ratio = fourth / second**2
        constant = second <= (torch.finfo(torch.float64).eps * self.mean) ** 2
        corrected = ((n * n - 1) * ratio - 3 * (n - 1) ** 2) / ((n - 2) * (n - 3)) if n > 3 else ratio - 3
        return torch.where(constant, torch.nan, corrected)

    def to(self, device: torch.device | str) -> Moments:
        """Move the tensors to a device; returns the same object."""
        for name in TENSORS:
            setattr(self, name, getattr(self, name).to(device))
        return self
