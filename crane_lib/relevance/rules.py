"""Relevance rules as changes of the backward pass; every forward value stays the same to the last bit.

AttnLRP in its gradient form: Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
Transformers", ICML 2024, equations 7 and 9; LRP as input x gradient: Arras et al., 2025. CP-LRP: Ali et al., ICML 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crane_lib.errors import CraneError
from crane_lib.relevance.families import NORMS, QUOTIENTS, Layout, Norm, tanh_quotient
from crane_lib.relevance.hooks import HookSet, wrapped_forward
from crane_lib.relevance.modules import ModelParts, gradient_scale, parts_of
from crane_lib.wrappers import causal_model, text_settings


@dataclass(frozen=True)
class Rule:
    """Changes that a rule makes to the gradient; the scale None stops it."""

    query_key_scale: float | None
    value_scale: float
    product_scale: float
    gate_detached: bool


RULES: dict[str, Rule | None] = {  # None: the ordinary backward pass
    # Bilinear products divide their relevance evenly: softmax(q k) (1/2 * 1/2), weights times v, gate times up, and
    # an expert's output times its routing weight.
    "attnlrp": Rule(query_key_scale=0.25, value_scale=0.5, product_scale=0.5, gate_detached=False),
    # Attention weights, the gate and routing weights are treated as constants; value, up and expert get everything.
    "cplrp": Rule(query_key_scale=None, value_scale=1.0, product_scale=1.0, gate_detached=True),
    "gradient": None,
}

_under_rules: WeakSet[nn.Module] = WeakSet()


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is `scale * G`: the uniform rule for a product of two factors."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Any) -> Tensor:
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
    """The output of a norm whose normaliser f = 1 / sqrt(mean((x - centre)^2) + epsilon) is treated as a constant.

    The gradient is G * weight * f, less its mean over the hidden dimension if the centre is the mean of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, normalised: Tensor, weight: Tensor | None, epsilon: float, norm: Norm) -> Tensor:
        # In the precision that the module itself uses: this is the normaliser of the forward pass.
        wide = x.to(norm.precision or torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True) if norm.centred else wide
        factor = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + epsilon)  # (..., 1)
        ctx.save_for_backward(weight, factor)
        ctx.centred, ctx.dtype = norm.centred, x.dtype
        return normalised.view_as(normalised)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weight, factor = ctx.saved_tensors
        slope = (gradients[0] if weight is None else gradients[0] * weight).to(factor.dtype) * factor
        if ctx.centred:
            slope = slope - slope.mean(-1, keepdim=True)
        return slope.to(ctx.dtype), None, None, None, None


class _TanhRule(TorchFunctionMode):
    """Give `torch.tanh`, which only a soft-cap c * tanh(x / c) calls inside the block, the identity rule."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tanh, Tensor.tanh) and not kwargs:
            return _QuotientGradient.apply(args[0], func(*args).detach(), tanh_quotient)
        return func(*args, **(kwargs or {}))

    @classmethod
    def within(cls, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return this forward as one that runs inside the block."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with cls():
                return forward(*args, **kwargs)

        return run


@contextmanager
def relevance_rules(model: nn.Module, rule: str = "attnlrp") -> Iterator[None]:
    """Let the backward pass of `model` compute relevance inside the block; the model is restored at the end.

    The relevance of a value is then `value * dS/dvalue`. Read the gradient of the MLP's hidden activation h at the
    input of `down_proj`: the rule for the product of gate and up halves it after that. Weights of norms get no
    gradient.

    Parameters
    ----------
    rule : "attnlrp", "cplrp" or "gradient" (the ordinary gradient)

    Raises
    ------
    CraneError : unknown rule or model, a float16 model, or a model that is already under rules
    """
    if rule not in RULES:
        raise CraneError(f"unknown relevance rule {rule!r}; use one of {', '.join(RULES)}")
    model, parts = causal_model(model), parts_of(model)
    if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise CraneError("the model is in float16, where small gradients vanish; load it in bfloat16 or float32")
    if model in _under_rules:
        raise CraneError("relevance rules are already in force on this model; leave the outer block first")
    chosen = RULES[rule]
    _under_rules.add(model)
    try:
        with HookSet() as hooks, ExitStack() as forwards:
            if chosen is not None:
                _check_attention(model, parts, chosen)
                _attach(hooks, model, parts, chosen)
                capped = [layer.attention for layer in parts.layers] if parts.attention_softcap else []
                for module in [*capped, model] if parts.final_softcap else capped:
                    forwards.enter_context(wrapped_forward(module, _TanhRule.within))
            yield
    finally:
        _under_rules.discard(model)


def _attach(hooks: HookSet, model: nn.Module, parts: ModelParts, rule: Rule) -> None:
    def product(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_ScaledGradient.apply(args[0], rule.product_scale), *args[1:])

    for norm in parts.norms:
        _attach_norm(hooks, norm)
    for layer in parts.layers:
        # The gradient of the attention's projections is scaled; everything after them is left to its kernel.
        for projection, layout in layer.projections:
            hooks.after(projection, _scaling(layout, rule, text_settings(model)))
        _attach_activation(hooks, layer.activation, detached=layer.gated and rule.gate_detached)
        if layer.gated and rule.product_scale != 1.0:  # one scale on the product gives each factor its share
            hooks.before(layer.down, product)
        if layer.experts is not None:
            _attach_routing(hooks, layer.experts, rule)


def _check_attention(model: nn.Module, parts: ModelParts, rule: Rule) -> None:
    """Refuse a kernel that caps attention logits itself, where the rule cannot reach the cap."""
    kernel = getattr(text_settings(model), "_attn_implementation", "eager")
    if parts.attention_softcap and rule.query_key_scale is not None and kernel != "eager":
        raise CraneError(
            f"attention {kernel!r} caps logits inside its kernel, where no rule reaches; load the model with "
            "attn_implementation='eager'"
        )


def _attach_norm(hooks: HookSet, norm: nn.Module) -> None:
    row = NORMS[type(norm).__name__]

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        weight = row.weight(module)
        weight = None if weight is None else weight.detach()
        return _ConstantNormaliser.apply(args[0], output.detach(), weight, row.epsilon(module), row)

    hooks.after(norm, hook)


def _attach_routing(hooks: HookSet, experts: nn.Module, rule: Rule) -> None:
    """Let expert and routing weight share the relevance of their product, or the expert have it all."""

    def constant(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*args[:2], args[2].detach())

    def shared(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return _ScaledGradient.apply(output, rule.product_scale)

    if rule.gate_detached:
        hooks.before(experts, constant)
    else:
        hooks.after(experts, shared)


def _attach_activation(hooks: HookSet, activation: nn.Module, *, detached: bool) -> None:
    quotient = QUOTIENTS[type(activation).__name__]

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if detached:
            return output.detach()
        return _QuotientGradient.apply(args[0], output.detach(), quotient)

    hooks.after(activation, hook)


def _scaling(layout: Layout, rule: Rule, config: Any) -> Any:
    scale: Tensor | float | None = 1.0
    known = False

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal scale, known
        if not known:
            scale = gradient_scale(
                layout, output.shape[-1], config=config, query_key=rule.query_key_scale, value=rule.value_scale
            )
            scale = scale.to(output) if isinstance(scale, Tensor) else scale
            known = True
        return output.detach() if scale is None else _ScaledGradient.apply(output, scale)

    return hook
