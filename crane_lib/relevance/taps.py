"""Taps that read relevance and row sums of weight gradients during the passes, summed over tokens at once.

No tensor of size (tokens, units) outlives the backward step of its layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError
from crane_lib.precision import widened
from crane_lib.relevance.experts import ExpertsPart
from crane_lib.relevance.hooks import HookSet
from crane_lib.relevance.modules import LayerParts, ModelParts, Rows

HEAD_SITES = ("head", "abs_head", "head_magnitude")
SITES = ("neuron", "abs_neuron", "gate", "up", "down", *HEAD_SITES)  # an ungated MLP has no gate


@dataclass(frozen=True)
class Watched:
    """One neuron token by token, each (B, T) and 0 at pads and skipped tokens.

    `relevance` is h dS/dh, which sums over tokens to the document's; `activation` is h, the input of `down_proj`;
    `fires` is True where act(g) > 0.
    """

    relevance: Tensor
    activation: Tensor
    fires: Tensor


class Taps:
    """Hooks that collect, per layer, a (B, units) sum over the tokens of each document but its first `skip`.

    Enter after `relevance_rules`: the gradient of h is then read before the rule for the gated product halves it.
    `sums[site][layer]` stays 0 if no gradient arrives (the gate under a rule that detaches it); `active[layer]`
    counts tokens with a positive activation, `magnitude[layer]` sums |h| and `slope[layer]` dS/dh. For the neuron
    `watch` (layer, index), the values of every token are kept.
    """

    def __init__(self, parts: ModelParts, mask: Tensor, *, watch: tuple[int, int] | None = None, skip: int = 0) -> None:
        absent = {"gate"} - set(parts.widths)
        self.sums: dict[str, dict[int, Tensor]] = {site: {} for site in SITES if site not in absent}
        self.active: dict[int, Tensor] = {}
        self.magnitude: dict[int, Tensor] = {}
        self.slope: dict[int, Tensor] = {}
        self.embedding: Tensor  # (B, T, H), the leaf that gradients flow down to; set by the forward pass
        self._watch = watch
        self._seen: dict[str, Tensor] = {}  # fields of `watched`
        self._parts = parts
        self._skip = skip
        self._mask = mask & (torch.arange(mask.shape[1], device=mask.device) >= skip)  # (B, T), True at counted tokens
        self._hooks = HookSet()

    def __enter__(self) -> Taps:
        self._hooks.after(self._parts.embedding, self._start_gradients)
        for index, layer in enumerate(self._parts.layers):
            self._tap_neurons(index, layer.down)
            for module, rows in _by_module(layer.rows):
                self._tap_rows(index, module, rows)
            self._tap_activation(index, layer.activation)
            self._tap_heads(index, layer)
        return self

    def __exit__(self, *raised: object) -> None:
        self._hooks.remove()

    def check_complete(self) -> None:
        """Check that every tap was reached.

        Raises
        ------
        CraneError : a layer was computed without calling its modules
        """
        for site, found in {**self.sums, "activation": self.active}.items():
            for index in range(len(self._parts.layers)):
                if index not in found:
                    raise CraneError(
                        f"layer {index}: its {site} was bypassed; the model computes this layer without calling the "
                        "module (slow_but_exact or a fused kernel?)"
                    )

    @property
    def watched(self) -> Watched | None:
        """Values of the watched neuron, token by token."""
        return Watched(**self._seen) if self._watch is not None else None

    def _see(self, name: str, layer: int, values: Tensor) -> None:
        """Keep the values of the watched neuron out of (B, T, I), if they are of its layer."""
        if self._watch is not None and self._watch[0] == layer:
            chosen = values[..., self._watch[1]]
            self._seen[name] = chosen * self._mask.to(chosen.device)  # a copy: the values may be changed in place

    def _start_gradients(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        self.embedding = output.detach().requires_grad_()
        return self.embedding

    def _tap_neurons(self, index: int, down: nn.Module) -> None:
        def write(relevance: Tensor, slope: Tensor) -> None:
            self.slope[index] = widened(slope)[:, self._skip :].sum(1)
            self._see("relevance", index, relevance)
            self.sums["neuron"][index] = relevance[:, self._skip :].sum(1)
            self.sums["abs_neuron"][index] = relevance[:, self._skip :].abs_().sum(1)

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = widened(args[0].detach())
            self._see("activation", index, hidden)
            counted = self._mask.to(hidden.device, hidden.dtype)
            self.magnitude[index] = torch.einsum("bti,bt->bi", hidden.abs(), counted)
            return (_ReadRelevance.apply(args[0], write), *args[1:])

        self._hooks.before(down, hook)

    def _tap_heads(self, index: int, layer: LayerParts) -> None:
        def write(relevance: Tensor, _slope: Tensor) -> None:
            of_heads = layer.by_head(relevance[:, self._skip :]).sum(-1)  # (B, T, heads)
            self.sums["head"][index] = of_heads.sum(1)
            self.sums["abs_head"][index] = of_heads.abs_().sum(1)

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            length = torch.linalg.vector_norm(layer.by_head(widened(args[0].detach())), dim=-1)  # (B, T, heads)
            counted = self._mask.to(length.device, length.dtype)
            self.sums["head_magnitude"][index] = torch.einsum("bth,bt->bh", length, counted)
            return (_ReadRelevance.apply(args[0], write), *args[1:])

        self._hooks.before(layer.output.module, hook)

    def _tap_rows(self, index: int, projection: nn.Module, rows: dict[str, Rows]) -> None:
        """Collect row sums of one module, which may hold the rows of two sites."""

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, ExpertsPart):
                input_sum = module.input_sum(*args)
            else:
                input_sum = widened(args[0].detach()).sum(-1)  # (B, T)
            for site, part in rows.items():
                # zero if no gradient arrives; a checkpointed layer runs again after its gradients were read
                self.sums[site].setdefault(index, input_sum.new_zeros(len(output), len(part)))  # (B, rows)

            def read(gradient: Tensor) -> None:
                # sum_j dS/dW[row, j] = sum_t G[t, row] * (sum_j in[t, j]): no weight gradient is needed
                sums = torch.einsum("btr,bt->br", widened(gradient)[:, self._skip :], input_sum[:, self._skip :])
                for site, part in rows.items():
                    self.sums[site][index] = part.of(sums)

            output.register_hook(read)

        self._hooks.after(projection, hook)

    def _tap_activation(self, index: int, activation: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            mask = self._mask.to(output.device)
            active = (output.detach() > 0) & mask[..., None]
            self._see("fires", index, active)
            self.active[index] = active.sum(1)  # (B, I)

        self._hooks.after(activation, hook)


class _ReadRelevance(torch.autograd.Function):
    """Identity that passes value * gradient and gradient to `write` in the backward pass, then releases the value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, write: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(value)
        ctx.write = write
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (value,) = ctx.saved_tensors
        ctx.write(widened(value) * gradients[0], gradients[0])
        return gradients[0], None


def _by_module(rows: dict[str, Rows]) -> list[tuple[nn.Module, dict[str, Rows]]]:
    """Rows of a layer grouped by the module that holds them."""
    groups: dict[int, tuple[nn.Module, dict[str, Rows]]] = {}
    for site, part in rows.items():
        groups.setdefault(id(part.module), (part.module, {}))[1][site] = part
    return list(groups.values())
