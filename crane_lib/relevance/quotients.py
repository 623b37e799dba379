"""act(g) / g of activations, each with its right limit at g = 0 and finite in every dtype.

Where a closed form exists there is no division, so that g = 0 is a point like any other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _wide(g: Tensor) -> Tensor:
    return g.to(torch.promote_types(g.dtype, torch.float32))


def gelu(g: Tensor) -> Tensor:
    """GELU: the normal distribution function."""
    return torch.special.ndtr(_wide(g)).to(g.dtype)


def tanh_gelu(g: Tensor, *, slope: float = math.sqrt(2 / math.pi)) -> Tensor:
    """GELU by its tanh approximation; some models write its `slope` with fewer digits."""
    wide = _wide(g)
    # (1 + tanh z) / 2 = sigmoid(2 z), which does not cancel for very negative g
    return torch.sigmoid(2 * slope * (wide + 0.044715 * wide**3)).to(g.dtype)


def quick_gelu(g: Tensor) -> Tensor:
    """GELU by its sigmoid approximation."""
    return torch.sigmoid(1.702 * g)


def relu(g: Tensor) -> Tensor:
    """ReLU: 1 above 0, and 0 at 0, where PyTorch has its slope 0 too."""
    return (g > 0).to(g.dtype)


def tanh(g: Tensor) -> Tensor:
    """Hyperbolic tangent, 1 at 0; below 0.01 by its series, which is exact there to the last digit of float64."""
    wide = _wide(g)
    square = wide * wide
    near = 1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315)))
    return torch.where(wide.abs() < 0.01, near, torch.tanh(wide) / wide).to(g.dtype)
