"""Central moments of many units over a stream of documents, in memory that does not grow with the stream."""

from __future__ import annotations

import torch
from torch import Tensor

from crane_lib.errors import CraneError

TENSORS = ("mean", "m2", "m3", "m4", "mean_absolute")

# Values processed at one time, in float64. On the CPU they and their few copies fit in the cache (1 MiB each); a GPU
# is faster with few large kernels (64 MiB each).
CHUNK_VALUES_CPU = 1 << 17
CHUNK_VALUES_GPU = 1 << 23


class Moments:
    """Count, mean, sums of powers 2 to 4 of the deviations, and mean absolute value, per unit, in float64.

    The parts of a stream may be merged in any order and grouping (Pebay, "Formulas for robust, one-pass parallel
    computation of covariances and arbitrary-order statistical moments", Sandia report SAND2008-6212, 2008).
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean, self.m2, self.m3, self.m4, self.mean_absolute = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in TENSORS
        )

    @classmethod
    def of(cls, batch: Tensor) -> Moments:
        """Moments of a batch (B, *shape) of B documents, on the device of the batch (on the CPU for MPS)."""
        moments = cls(tuple(batch.shape[1:]), "cpu" if batch.device.type == "mps" else batch.device)
        moments.update(batch)
        return moments

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the units."""
        return tuple(self.mean.shape)

    def update(self, batch: Tensor) -> None:
        """Add a batch (B, *shape) of documents of any floating-point type, converted to float64 piece by piece.

        Raises
        ------
        CraneError : the units have another shape
        """
        if self.shape != tuple(batch.shape[1:]):
            raise CraneError(f"moments of units {self.shape} cannot be updated with a batch of {tuple(batch.shape)}")
        documents = len(batch)
        if not documents or not self.mean.numel():
            self.count += documents
            return
        flat = batch.detach().reshape(documents, -1)
        own = self._flat()
        size = max(1, self._chunk_values() // documents)
        for start in range(0, flat.shape[1], size):
            here = slice(start, start + size)
            # first the device, then the type: MPS has no float64; always a copy, because it is overwritten
            values = flat[:, here].to(self.mean.device).to(torch.float64, copy=True)  # (B, units)
            _merge([tensor[here] for tensor in own], self.count, _moments_of(values), documents)
        self.count += documents

    def merge(self, other: Moments) -> None:
        """Add the moments of another stream; `other` is not changed.

        Raises
        ------
        CraneError : the units have another shape
        """
        if self.shape != other.shape:
            raise CraneError(f"moments of units {self.shape} cannot be merged with moments of units {other.shape}")
        if not other.count:
            return
        own, others = self._flat(), other._flat()
        for start in range(0, self.mean.numel(), self._chunk_values()):
            here = slice(start, start + self._chunk_values())
            arriving = [tensor[here].to(self.mean.device) for tensor in others]
            _merge([tensor[here] for tensor in own], self.count, arriving, other.count)
        self.count += other.count

    def variance(self) -> Tensor:
        """Unbiased variance over documents; NaN with fewer than two."""
        return self.m2 / (self.count - 1) if self.count > 1 else torch.full_like(self.m2, torch.nan)

    def excess_kurtosis(self) -> Tensor:
        """Bias-corrected excess kurtosis (Fisher), equal to `scipy.stats.kurtosis(bias=False)`.

        NaN if a unit is constant up to rounding. With two or three documents the correction is not defined, and the
        value is uncorrected. Both are as in SciPy.
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
        """Move the tensors to a device and return this object."""
        for name in TENSORS:
            setattr(self, name, getattr(self, name).to(device))
        return self

    def _flat(self) -> list[Tensor]:
        """Views of the tensors as (units,), in the order of `TENSORS`."""
        return [getattr(self, name).view(-1) for name in TENSORS]

    def _chunk_values(self) -> int:
        return CHUNK_VALUES_CPU if self.mean.device.type == "cpu" else CHUNK_VALUES_GPU


def _moments_of(values: Tensor) -> list[Tensor]:
    """Moments of (B, units) in the order of `TENSORS`; `values` is overwritten."""
    mean = values.mean(0)
    absolute = values.abs()
    mean_absolute = absolute.mean(0)
    deviation = values.sub_(mean)
    power = torch.mul(deviation, deviation, out=absolute)
    m2 = power.sum(0)
    m3 = deviation.mul_(power).sum(0)
    m4 = power.square_().sum(0)
    return [mean, m2, m3, m4, mean_absolute]


def _merge(own: list[Tensor], a: int, other: list[Tensor], b: int) -> None:
    """Merge the moments `other` of b documents into those `own` of a documents, in place (Pebay, eqs. 2.1)."""
    if not a:  # the exact values, without the rounding of a sum
        for mine, theirs in zip(own, other, strict=True):
            mine.copy_(theirs)
        return
    mean, m2, m3, m4, mean_absolute = own
    other_mean, other_m2, other_m3, other_m4, other_absolute = other
    n = a + b
    delta = other_mean - mean
    step = delta / n
    square = step * step
    # the highest moment first: each formula needs the lower moments of both parts as they were
    m4 += other_m4
    m4 += delta * step * square * (a * b * (a * a - a * b + b * b))
    m4 += square.mul(6).mul_(other_m2 * (a * a) + m2 * (b * b))
    m4 += step.mul(4).mul_(other_m3 * a - m3 * b)
    m3 += other_m3
    m3 += delta * square * (a * b * (a - b))
    m3 += step.mul(3).mul_(other_m2 * a - m2 * b)
    m2 += other_m2
    m2 += delta * step * (a * b)
    mean += step * b
    mean_absolute += (other_absolute - mean_absolute) * (b / n)
