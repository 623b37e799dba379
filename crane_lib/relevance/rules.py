"""Relevance rules as changes of the backward pass alone: every forward value stays bit for bit what it was.

AttnLRP in its gradient form: Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
Transformers", ICML 2024, equations 7 and 9; LRP as input x gradient: Arras et al., 2025. CP-LRP: Ali et al., ICML 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError
from crane_lib.relevance.families import NORMS, QUOTIENTS, Norm, parts_of
from crane_lib.relevance.hooks import HookSet


@dataclass(frozen=True)
class Rule:
    """What a rule does to the gradient; `None` for a scale means that nothing flows back there."""

    query_key_scale: float | None
    value_scale: float
    product_scale: float
    gate_detached: bool


# By name; "gradient" is the ordinary backward pass and changes nothing.
RULES: dict[str, Rule | None] = {
    # Three bilinear products share their relevance evenly: softmax(q k) (1/2 * 1/2), weights times v, gate times up.
    "attnlrp": Rule(query_key_scale=0.25, value_scale=0.5, product_scale=0.5, gate_detached=False),
    # Attention weights and the gate count as constants; value and up receive everything.
    "cplrp": Rule(query_key_scale=None, value_scale=1.0, product_scale=1.0, gate_detached=True),
    "gradient": None,
}

_under_rules: WeakSet[nn.Module] = WeakSet()


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is `scale * G`: the uniform rule for a product of two factors."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.scale, None


class _QuotientGradient(torch.autograd.Function):
    """The activation's output `act(g)`, with gradient `G * act(g) / g`: the identity rule (all relevance to g)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, activated: Tensor, quotient: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(g)
        ctx.quotient = quotient
        return activated.view_as(activated)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,) = ctx.saved_tensors
        return gradients[0] * ctx.quotient(g), None, None


class _ConstantNormaliser(torch.autograd.Function):
    """The output of an RMSNorm, with gradient `G * weight * rsqrt(mean(x^2) + eps)`: the normaliser is a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, normalised: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # In float32 both ways, as the module itself does for every dtype: this is the normaliser the forward pass used.
        factor = torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + epsilon)  # (B, T, 1)
        ctx.save_for_backward(weight, factor)
        ctx.dtype = x.dtype
        return normalised.view_as(normalised)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weight, factor = ctx.saved_tensors
        return ((gradients[0] * weight).to(torch.float32) * factor).to(ctx.dtype), None, None, None


@contextmanager
def relevance_rules(model: nn.Module, rule: str = "attnlrp") -> Iterator[None]:
    """Let the backward pass of `model` compute relevance inside the block; the model leaves as it came.

    Relevance of a value is then `value * dS/dvalue`. The gradient of the MLP's hidden activation h is halved between
    the input of `down_proj` and the product, so read it at the input of `down_proj`.

    Parameters
    ----------
    rule : "attnlrp", "cplrp" or "gradient" (the ordinary gradient: nothing is changed)

    Raises
    ------
    CraneError : unknown rule or model, a float16 model, or rules already in force on this model
    """
    if rule not in RULES:
        raise CraneError(f"unknown relevance rule {rule!r}; use one of {', '.join(RULES)}")
    parts = parts_of(model)
    if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise CraneError("the model is in float16, where small gradients vanish; load it in bfloat16 or float32")
    if model in _under_rules:
        raise CraneError("relevance rules are already in force on this model; leave the outer block first")
    chosen = RULES[rule]
    hooks = HookSet()
    _under_rules.add(model)
    try:
        if chosen is not None:
            _attach_norm(hooks, parts.final_norm)
            for layer in parts.layers:
                for norm in layer.norms:
                    _attach_norm(hooks, norm)
                _attach_scale(hooks, layer.query, chosen.query_key_scale)
                _attach_scale(hooks, layer.key, chosen.query_key_scale)
                _attach_scale(hooks, layer.value, chosen.value_scale)
                _attach_activation(hooks, layer.activation, detached=chosen.gate_detached)
                _attach_product(hooks, layer.down, chosen.product_scale)
        yield
    finally:
        hooks.remove()
        _under_rules.discard(model)


def _attach_norm(hooks: HookSet, norm: nn.Module) -> None:
    row: Norm = NORMS[type(norm).__name__]

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        weight = row.effective_weight(module).detach()
        return _ConstantNormaliser.apply(args[0], output.detach(), weight, row.epsilon(module))

    hooks.after(norm, hook)


def _attach_activation(hooks: HookSet, activation: nn.Module, *, detached: bool) -> None:
    quotient = QUOTIENTS[type(activation).__name__]

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if detached:
            return output.detach()
        return _QuotientGradient.apply(args[0], output.detach(), quotient)

    hooks.after(activation, hook)


def _attach_scale(hooks: HookSet, projection: nn.Module, scale: float | None) -> None:
    """Scale the gradient of a projection's output. From there to the attention all is linear: same for every kernel."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.detach() if scale is None else _ScaledGradient.apply(output, scale)

    if scale != 1.0:
        hooks.after(projection, hook)


def _attach_product(hooks: HookSet, down: nn.Module, scale: float) -> None:
    """Scale the gradient of the gated product; one scale on the product gives each factor its share."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_ScaledGradient.apply(args[0], scale), *args[1:])

    if scale != 1.0:
        hooks.before(down, hook)
