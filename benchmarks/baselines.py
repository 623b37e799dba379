"""Baselines: the released procedure, and the floor that no procedure can go below.

Neither uses `crane_lib`, so agreement of the numbers is a check of both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

Batch = tuple[Tensor, Tensor]  # token ids (B, T), padded on the right, and lengths (B,)


@dataclass(frozen=True)
class ReleasedResult:
    """Row statistics (documents, units), their kurtosis (units,) and the objectives (documents,).

    Units are layer by layer the rows of gate, up and down.
    """

    rows: np.ndarray
    kurtosis: np.ndarray
    objectives: np.ndarray


def released(
    model: LlamaForCausalLM, documents: Sequence[np.ndarray], *, checkpointing: bool = True, exact_limit: bool = False
) -> ReleasedResult:
    """Baseline A: one document at a time, a gradient for every parameter, all samples kept, SciPy at the end.

    The AttnLRP rules are a plain version of those the released code takes from LXT: replaced forward functions, with
    division by `g + 1e-10`. All parameters require gradients, the embeddings too, as loading a checkpoint leaves them.
    The full logits exist; the objective is the mean gold logit, read from them.

    Parameters
    ----------
    checkpointing : recompute each layer's activations in the backward pass
    exact_limit : act(g) / g with its limit at 0, instead of act(g) / (g + 1e-10), which is off near 0
    """
    embedding: Any = model.get_input_embeddings()
    layers: Any = model.model.layers
    device = embedding.weight.device
    samples, objectives = [], []
    with _plain_rules(model, exact_limit=exact_limit), _training(model, checkpointing=checkpointing):
        for document in documents:
            model.zero_grad()
            input_ids = torch.from_numpy(document).long()[None].to(device)  # (1, T)
            embedded = embedding(input_ids)
            logits = model(inputs_embeds=embedded, use_cache=False).logits
            objective = _gold_logit(logits, input_ids, torch.tensor([input_ids.shape[1]], device=device)).sum()
            objective.backward()
            sums = [
                projection.weight.grad.sum(1)
                for layer in layers
                for projection in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
            ]
            samples.append(torch.cat(sums).float().cpu().numpy())
            objectives.append(objective.item())
    rows = np.stack(samples)
    return ReleasedResult(rows, scipy.stats.kurtosis(rows, axis=0, bias=False), np.array(objectives))


def floor(model: LlamaForCausalLM, batches: Sequence[Batch]) -> list[float]:
    """Baseline B: forward and backward to the input embeddings over given batches, and nothing else.

    No rules, no statistics, no parameter gradients; the full logits exist, and the objective is read from them.
    Right pads need no attention mask, as everywhere here. Returns S of each document, in the order of the batches.
    """
    objectives: list[float] = []
    for input_ids, lengths in batches:
        embedded = model.get_input_embeddings()(input_ids).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False).logits  # (B, T, V)
        objective = _gold_logit(logits, input_ids, lengths)
        torch.autograd.grad(objective.sum(), embedded)
        objectives += objective.tolist()
    return objectives


def _gold_logit(logits: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
    """S (B,): mean over a document of the gold next-token logits, the last position giving its maximal logit."""
    documents, last = torch.arange(len(input_ids), device=input_ids.device), lengths - 1
    target = input_ids.roll(-1, dims=1)
    target[documents, last] = logits[documents, last].argmax(-1)
    inside = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]  # (B, T)
    gold = logits.gather(-1, target[..., None])[..., 0]
    return (gold * inside).sum(1) / lengths


class _IdentityRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, activation: Callable[[Tensor], Tensor], exact_limit: bool) -> Tensor:
        activated = activation(g)
        quotient = torch.where(g == 0, 0.5, activated / g) if exact_limit else activated / (g + 1e-10)
        ctx.save_for_backward(quotient)
        return activated

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.saved_tensors[0], None, None


class _DividedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, divisor: float) -> Tensor:
        ctx.divisor = divisor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] / ctx.divisor, None


def _norm_forward(self: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    wide = hidden.float()
    factor = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).detach()
    return self.weight * (wide * factor).to(hidden.dtype)


def _mlp_forward(self: LlamaMLP, x: Tensor, *, exact_limit: bool = False) -> Tensor:
    gated = _IdentityRule.apply(self.gate_proj(x), self.act_fn, exact_limit) * self.up_proj(x)
    return self.down_proj(_DividedGradient.apply(gated, 2.0))


@contextmanager
def _plain_rules(model: LlamaForCausalLM, *, exact_limit: bool) -> Iterator[None]:
    """AttnLRP by other forward functions on this model's modules, taken away at the end."""
    layers: Any = model.model.layers
    forwards: dict[type, Any] = {
        LlamaRMSNorm: _norm_forward,
        LlamaMLP: partial(_mlp_forward, exact_limit=exact_limit),
    }
    replaced: list[Any] = [module for module in model.modules() if type(module) in forwards]
    hooks = []
    for module in replaced:
        module.forward = MethodType(forwards[type(module)], module)
    for layer in layers:
        attention = layer.self_attn
        for projection, divisor in ((attention.q_proj, 4.0), (attention.k_proj, 4.0), (attention.v_proj, 2.0)):
            hooks.append(projection.register_forward_hook(_dividing_hook(divisor)))
    try:
        yield
    finally:
        for module in replaced:
            del module.forward
        for hook in hooks:
            hook.remove()


def _dividing_hook(divisor: float) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda module, args, output: _DividedGradient.apply(output, divisor)


@contextmanager
def _training(model: LlamaForCausalLM, *, checkpointing: bool) -> Iterator[None]:
    """Parameter gradients, and checkpointing, which transformers does in training mode only (there is no dropout)."""
    model.requires_grad_(True).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        model.disable_input_require_grads()  # enabling hooks the embedding, disabling leaves that hook
        model.zero_grad()
        model.requires_grad_(False).eval()
