"""Objectives: the scalar S of a document whose relevance is computed, and its gradient at the final hidden states.

The gradients of both objectives are computed in closed form, so that the full logits of a document
(tokens x vocabulary) never exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crane_lib.errors import CraneError
from crane_lib.relevance.families import tanh_quotient

LOGIT_CHUNK_VALUES = 1 << 25  # logits held at one time by `log_probability` (128 MiB in float32)


@dataclass(frozen=True)
class Logits:
    """Map from final hidden states to logits: output embedding, perhaps a factor, perhaps a soft-cap c * tanh(l / c).

    Parameters
    ----------
    head : the output embedding, a linear module of shape (V, H)
    scale : the factor (Cohere), positive
    cap : c, or None
    identity_rule : the gradient of the cap is c * tanh(l / c) / l, as under the relevance rules, not its derivative
    """

    head: Any
    scale: float = 1.0
    cap: float | None = None
    identity_rule: bool = True

    def scaled(self, values: Tensor) -> Tensor:
        """Values times the factor, in place."""
        return values if self.scale == 1.0 else values.mul_(self.scale)

    def capped(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Capped logits and the gradient of the cap (None if there is no cap), in the shape of `logits`."""
        if self.cap is None:
            return logits, None
        scaled = logits / self.cap
        bent = torch.tanh(scaled)
        return bent * self.cap, tanh_quotient(scaled) if self.identity_rule else 1 - bent * bent


def gold_logit(logits: Logits, hidden: Tensor, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over a document of the gold next-token logits; the last position contributes its maximal logit.

    S = (sum_{t<n-1} logit[t, x[t+1]] + max_v logit[n-1, v]) / n; without a cap it is linear in the hidden states.
    """
    head = logits.head
    documents = torch.arange(len(input_ids), device=hidden.device)
    last = lengths - 1
    target = input_ids.roll(-1, dims=1)  # (B, T)
    target[documents, last] = head(hidden[documents, last]).argmax(-1)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    share = _inside(input_ids, lengths).to(wide) / lengths[:, None]  # (B, T), 0 at pads
    gradient = head.weight[target].to(wide)  # (B, T, H)
    gold = torch.einsum("bth,bth->bt", hidden.to(wide), gradient)
    bias = getattr(head, "bias", None)
    if bias is not None:
        gold = gold + bias[target].to(wide)
    gold, gradient = logits.scaled(gold), logits.scaled(gradient)
    gold, slope = logits.capped(gold)
    value = (gold * share).sum(1)
    gradient *= (share if slope is None else share * slope)[..., None]
    return value, gradient.to(hidden.dtype)


def log_probability(logits: Logits, hidden: Tensor, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean gold log-probability over the n - 1 predicted tokens of a document: minus the NLL, in nats per token.

    S = sum_{t<n-1} (logit[t, x[t+1]] - ln sum_v exp logit[t, v]) / (n - 1).
    """
    head = logits.head
    wide = torch.promote_types(hidden.dtype, torch.float32)
    value = torch.zeros(len(input_ids), dtype=wide, device=hidden.device)
    gradient = torch.zeros_like(hidden)
    document, position = torch.nonzero(_inside(input_ids, lengths - 1), as_tuple=True)  # (N,) each
    chunk = max(1, LOGIT_CHUNK_VALUES // head.weight.shape[0])
    for d, t in zip(document.split(chunk), position.split(chunk), strict=True):
        gold = input_ids[d, t + 1, None]  # (n, 1)
        share = 1 / (lengths[d] - 1).to(wide)  # (n,)
        capped, cap_slope = logits.capped(logits.scaled(head(hidden[d, t]).to(wide)))
        log_p = capped.log_softmax(-1)  # (n, V)
        value.index_add_(0, d, log_p.gather(1, gold)[:, 0] * share)
        slope = log_p.exp().neg_()
        slope.scatter_add_(1, gold, torch.ones_like(slope[:, :1]))  # dS/dlogit = (one-hot - p) / (n - 1)
        if cap_slope is not None:
            slope *= cap_slope
        slope = logits.scaled(slope)
        gradient[d, t] = (slope * share[:, None]).to(hidden.dtype) @ head.weight
    return value, gradient


@dataclass(frozen=True)
class Objective:
    """An objective function, and the smallest number of tokens of a document."""

    function: Callable[[Logits, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    shortest: int


OBJECTIVES: dict[str, Objective] = {
    "gold_logit": Objective(gold_logit, shortest=1),
    "log_probability": Objective(log_probability, shortest=2),
}


def objective_named(name: str) -> Objective:
    """Look up an objective.

    Raises
    ------
    CraneError : unknown name
    """
    if name not in OBJECTIVES:
        raise CraneError(f"unknown objective of the relevance pass {name!r}; use one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


@torch.no_grad()
def objective_gradient(
    name: str, logits: Logits, hidden: Tensor, *, input_ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Value of the objective and its gradient at the final hidden states.

    Parameters
    ----------
    logits : map from hidden states to logits
    hidden : (B, T, H), after the final norm
    input_ids : (B, T), right-padded
    lengths : (B,) tokens of each document

    Returns
    -------
    S (B,) at least in float32, and dS/dhidden (B, T, H), zero at pads
    """
    place = logits.head.weight.device
    value, gradient = objective_named(name).function(
        logits, hidden.detach().to(place), input_ids.to(place), lengths.to(place)
    )
    return value, gradient.to(hidden.device)


def _inside(input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Mask (B, T) of the first `lengths` positions of each row."""
    return torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
