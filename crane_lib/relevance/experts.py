"""Experts of a mixture as one wide MLP whose parts take hooks, though its fused parameters have no modules.

Neuron i of expert e has the index e * I + i, where I is the width of an expert. At a token that is not routed to an
expert, its neurons are 0 and pass no gradient. The arithmetic is that of `experts_implementation="eager"`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crane_lib.errors import CraneError
from crane_lib.precision import widened
from crane_lib.relevance.hooks import HookSet, wrapped_forward

_PLAIN = {"has_gate": True, "is_concatenated": True, "is_transposed": False, "has_bias": False}
_PLAIN |= {"has_post_expert_norm": False, "_is_expert_parallel": False}


class ExpertsPart(nn.Module):
    """Linear map of all experts of a layer, which is computed through it while it has hooks.

    It is called with an input (B, T, inputs), the function to apply, and the routing weights (B, T, E) that the output
    is weighted with, or None.
    """

    bias = None

    def __init__(self, experts: Experts, stored: Callable[[], Tensor]) -> None:
        super().__init__()
        self._experts, self._stored = experts, stored

    def forward(self, given: Tensor, apply: Callable[[Tensor], Tensor], _weights: Tensor | None = None) -> Tensor:
        """Return `apply(given)`."""
        return apply(given)

    def register_forward_hook(self, hook: Any, **options: Any) -> Any:
        """Call `hook(module, args, output)` after the map."""
        return _Handle(self._experts, super().register_forward_hook(hook, **options))

    def register_forward_pre_hook(self, hook: Any, **options: Any) -> Any:
        """Call `hook(module, args)` before the map."""
        return _Handle(self._experts, super().register_forward_pre_hook(hook, **options))

    @property
    def weight(self) -> Tensor:
        """Copy (rows, inputs) of the weights."""
        stored = self._stored()
        rows = stored.shape[0] if stored.ndim == 3 else stored[..., 0].numel()
        return stored.reshape(rows, -1)

    def store(self, weight: Tensor) -> None:
        """Write all weights (rows, inputs)."""
        stored = self._stored()
        stored.copy_(weight.view(stored.shape))

    @torch.no_grad()
    def input_sum(self, given: Tensor, _apply: Any, weights: Tensor | None = None) -> Tensor:
        """Sum (B, T) over the inputs, each times the routing weight of its expert."""
        if weights is None:
            return widened(given).sum(-1)
        return (widened(given).unflatten(-1, (weights.shape[-1], -1)).sum(-1) * weights).sum(-1)


class Experts:
    """Parts of the experts of one layer: `projection`, the rows of all gates before those of all ups, and `down`.

    They hold neither the block nor its experts, which must live.
    """

    def __init__(self, block: nn.Module, experts: nn.Module) -> None:
        other = [name for name, plain in _PLAIN.items() if getattr(experts, name, None) is not plain]
        if other:
            raise CraneError(
                f"{type(experts).__name__}: experts whose {other[0]} is not {_PLAIN[other[0]]} have no rule"
            )
        self._block: Any = ref(block)
        self._experts: Any = ref(experts)
        self.count, self.hidden, self.width = self._of.down_proj.shape
        # (2, E, I, H) and (H, E, I)
        self.projection = ExpertsPart(self, lambda: self._of.gate_up_proj.unflatten(1, (2, -1)).transpose(0, 1))
        self.down = ExpertsPart(self, lambda: self._of.down_proj.transpose(0, 1))
        self._shape: tuple[int, ...] = ()
        self._hooks, self._opened = 0, ExitStack()

    @property
    def _of(self) -> Any:
        return self._experts()

    def opened(self) -> None:
        """Compute the layer through its parts, for one hook more."""
        if not self._hooks:
            self._opened.enter_context(HookSet()).before(self._block(), self._see_shape)
            self._opened.enter_context(wrapped_forward(self._of, lambda _own: self._run))
        self._hooks += 1

    def closed(self) -> None:
        """Compute it as before, after the last hook."""
        self._hooks -= 1
        if not self._hooks:
            self._opened.close()

    def _see_shape(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._shape = args[0].shape[:2]

    def _run(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Output (N, H) of the experts on N = B * T tokens, each routed to K of them, (N, K)."""
        experts, order = top_k_index.flatten().sort(stable=True)  # (N * K,) pairs of token and expert, by expert
        tokens = order // top_k_index.shape[1]
        sizes = torch.bincount(experts, minlength=self.count).tolist()
        weights = torch.zeros(len(hidden_states), self.count, dtype=top_k_weights.dtype, device=experts.device)
        weights = weights.scatter(1, top_k_index, top_k_weights).unflatten(0, self._shape)

        def mapped(pairs: Tensor, matrices: Tensor) -> list[Tensor]:
            """Outputs of each expert for its tokens; `pairs` are (N * K, inputs)."""
            return [F.linear(part, matrix) for part, matrix in zip(pairs.split(sizes), matrices, strict=True)]

        def project(given: Tensor) -> Tensor:
            found = torch.cat(mapped(given.flatten(0, 1)[tokens], self._of.gate_up_proj))  # (N * K, 2 I)
            wide = found.new_zeros(len(hidden_states), self.count, 2 * self.width)
            wide = wide.index_put((tokens, experts), found)
            return wide.unflatten(2, (2, -1)).transpose(1, 2).flatten(1).unflatten(0, self._shape)

        def combine(given: Tensor) -> Tensor:
            chosen = given.flatten(0, 1).unflatten(1, (self.count, -1))[tokens, experts]
            output = torch.zeros_like(hidden_states)
            shares = top_k_weights.flatten()[order, None].split(sizes)
            parts = zip(mapped(chosen, self._of.down_proj), shares, tokens.split(sizes), strict=True)
            for part, share, own in parts:  # one after the other, so that the order of a token's sum is fixed
                output.index_add_(0, own, (part * share).to(output.dtype))
            return output.unflatten(0, self._shape)

        gate, up = self.projection(hidden_states.unflatten(0, self._shape), project).chunk(2, -1)
        return self.down(self._of.act_fn(gate) * up, combine, weights).flatten(0, 1)


class _Handle:
    """Handle of a hook of a part."""

    def __init__(self, experts: Experts, handle: Any) -> None:
        self._experts, self._handle = experts, handle
        experts.opened()

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            self._experts.closed()


_KNOWN: WeakKeyDictionary[nn.Module, Experts] = WeakKeyDictionary()


def experts_of(block: nn.Module, experts: nn.Module) -> Experts:
    """Parts of the experts of a block, the same ones at every call."""
    if experts not in _KNOWN:
        _KNOWN[experts] = Experts(block, experts)
    return _KNOWN[experts]
