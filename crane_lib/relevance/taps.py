"""Reading relevance and weight-gradient row sums while the passes run, reduced over tokens at once.

Nothing of size (tokens, units) outlives the layer's own backward step.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from crane_lib.relevance.families import ModelParts
from crane_lib.relevance.hooks import HookSet

SITES = ("neuron", "abs_neuron", "gate", "up", "down")


class Taps:
    """Hooks that collect, per layer, a (B, units) sum over the tokens of each document.

    Enter after `relevance_rules`: the gradient of h is then read before the rule for the gated product halves it.
    `sums[site][layer]` stays 0 where no gradient arrives (the gate under a rule that detaches it); `active[layer]`
    counts tokens with a positive activation.
    """

    def __init__(self, parts: ModelParts, mask: Tensor) -> None:
        self.sums: dict[str, dict[int, Tensor]] = {site: {} for site in SITES}
        self.active: dict[int, Tensor] = {}
        self.embedding: Tensor  # (B, T, H), the leaf that gradients flow down to; set by the forward pass
        self._parts = parts
        self._mask = mask  # (B, T), True at real tokens
        self._hooks = HookSet()

    def __enter__(self) -> Taps:
        try:
            self._hooks.after(self._parts.embedding, self._start_gradients)
            for index, layer in enumerate(self._parts.layers):
                self._tap_neurons(index, layer.down)
                for site, projection in (("gate", layer.gate), ("up", layer.up), ("down", layer.down)):
                    self._tap_rows(site, index, projection)
                self._tap_activation(index, layer.activation)
        except BaseException:
            self._hooks.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.remove()

    def _start_gradients(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        self.embedding = output.detach().requires_grad_()
        return self.embedding

    def _tap_neurons(self, index: int, down: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            held = [args[0].detach()]  # emptied by `read` at once, long before the graph dies

            def read(gradient: Tensor) -> None:
                relevance = widened(held.pop()) * gradient  # (B, T, I)
                self.sums["neuron"][index] = relevance.sum(1)
                self.sums["abs_neuron"][index] = relevance.abs_().sum(1)

            args[0].register_hook(read)

        self._hooks.before(down, hook)

    def _tap_rows(self, site: str, index: int, projection: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            input_sum = widened(args[0].detach()).sum(-1)  # (B, T)
            self.sums[site][index] = input_sum.new_zeros(len(output), output.shape[-1])  # (B, rows)

            def read(gradient: Tensor) -> None:
                # sum_j dS/dW[row, j] = sum_t G[t, row] * (sum_j in[t, j]): no weight gradient is needed
                self.sums[site][index] = torch.einsum("btr,bt->br", widened(gradient), input_sum)

            output.register_hook(read)

        self._hooks.after(projection, hook)

    def _tap_activation(self, index: int, activation: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            mask = self._mask.to(output.device)
            self.active[index] = ((output.detach() > 0) & mask[..., None]).sum(1)  # (B, I)

        self._hooks.after(activation, hook)


def widened(value: Tensor) -> Tensor:
    """Give the same values in at least float32, in which sums over tokens are taken."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
