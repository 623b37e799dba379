"""Experts of a mixture as one wide MLP whose parts take hooks, though its fused parameters have no modules.

Neuron i of expert e has the index e * I + i, where I is the width of an expert. At a token that is not routed to an
expert, its neurons are 0 and pass no gradient. The arithmetic is that of `experts_implementation="eager"`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crane_lib.errors import CraneError
from crane_lib.precision import widened
from crane_lib.relevance.hooks import HookSet, wrapped_forward


class ExpertsPart(nn.Module):
    """Linear map of all experts of a layer, which is computed through it while it has hooks.

    Called with an input (B, T, inputs), the function to apply, and routing weights (B, T, E) of the output or None.
    `stored` gives a view of the weights whose last `inputs` values are a row.
    """

    bias = None

    def __init__(self, experts: Experts, stored: Callable[[], Tensor], inputs: int) -> None:
        super().__init__()
        self._experts, self.stored, self._inputs = experts, stored, inputs

    def forward(self, given: Tensor, apply: Callable[[Tensor], Tensor], _weights: Tensor | None = None) -> Tensor:
        """Return `apply(given)`."""
        return apply(given)

    def register_forward_hook(self, hook: Any, **options: Any) -> Any:
        """Call `hook(module, args, output)` after the map."""
        return self._experts.opened(super().register_forward_hook(hook, **options))

    def register_forward_pre_hook(self, hook: Any, **options: Any) -> Any:
        """Call `hook(module, args)` before the map."""
        return self._experts.opened(super().register_forward_pre_hook(hook, **options))

    @property
    def weight(self) -> Tensor:
        """Copy (rows, inputs) of the weights."""
        return self.stored().reshape(-1, self._inputs)

    @torch.no_grad()
    def input_sum(self, given: Tensor, _apply: Any, weights: Tensor | None = None) -> Tensor:
        """Sum (B, T) over the inputs, each times the routing weight of its expert."""
        if weights is None:
            return widened(given).sum(-1)
        return (widened(given).unflatten(-1, (weights.shape[-1], -1)).sum(-1) * weights).sum(-1)


class Experts:
    """Parts of the experts of a layer: `projection`, the rows of all gates before those of all ups, and `down`."""

    def __init__(self, block: nn.Module, experts: Any) -> None:
        other = not (experts.has_gate and experts.is_concatenated) or experts.is_transposed or experts.has_bias
        if other or experts.has_post_expert_norm:
            raise CraneError(f"{type(experts).__name__}: experts other than act(gate) * up without biases have no rule")
        self._block, self._experts = ref(block), ref(experts)  # weak: the table below must not keep them alive
        self.count, self.hidden, self.width = count, hidden, width = experts.down_proj.shape
        # (2, E, I, H) and (H, E, I)
        self.projection = ExpertsPart(self, lambda: self._of.gate_up_proj.unflatten(1, (2, -1)).transpose(0, 1), hidden)
        self.down = ExpertsPart(self, lambda: self._of.down_proj.transpose(0, 1), count * width)
        self._shape: tuple[int, ...] = ()
        self._open = ExitStack()

    @property
    def _of(self) -> Any:
        return self._experts()

    def opened(self, handle: Any) -> Any:
        """Compute the layer through its parts until no hook of theirs is left; `handle` removes the newest."""
        remove, block = handle.remove, cast(nn.Module, self._block())
        if vars(self._of).get("forward") != self._run:
            self._open.enter_context(HookSet()).before(block, self._see_shape)
            self._open.enter_context(wrapped_forward(self._of, lambda _own: self._run))

        def close() -> None:
            remove()
            parts = (self.projection, self.down)
            if not any(part._forward_hooks or part._forward_pre_hooks for part in parts):
                self._open.close()

        handle.remove = close
        return handle

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
            return [F.linear(part, matrix) for part, matrix in zip(pairs.split(sizes), matrices, strict=True)]

        def project(given: Tensor) -> Tensor:
            found = torch.cat(mapped(given.flatten(0, 1)[tokens], self._of.gate_up_proj))  # (N * K, 2 I)
            wide = found.new_zeros(len(hidden_states), self.count, 2 * self.width)
            wide = wide.index_put((tokens, experts), found).unflatten(2, (2, -1))
            return wide.transpose(1, 2).flatten(1).unflatten(0, self._shape)

        def combine(given: Tensor) -> Tensor:
            output = torch.zeros_like(hidden_states)
            chosen = given.flatten(0, 1).unflatten(1, (self.count, -1))[tokens, experts]  # (N * K, I)
            shares = top_k_weights.flatten()[order, None].split(sizes)
            parts = zip(mapped(chosen, self._of.down_proj), shares, tokens.split(sizes), strict=True)
            for part, share, own in parts:  # one after the other, so that the order of a token's sum is fixed
                output.index_add_(0, own, (part * share).to(output.dtype))
            return output.unflatten(0, self._shape)

        gate, up = self.projection(hidden_states.unflatten(0, self._shape), project).chunk(2, -1)
        return self.down(self._of.act_fn(gate) * up, combine, weights).flatten(0, 1)


_KNOWN: WeakKeyDictionary[nn.Module, Experts] = WeakKeyDictionary()


def experts_of(block: nn.Module, experts: nn.Module) -> Experts:
    """Parts of the experts of a block, the same ones at every call."""
    found = _KNOWN[experts] = _KNOWN.get(experts) or Experts(block, experts)
    return found
