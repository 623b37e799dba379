"""The scalar S of a document that relevance is propagated from, and its gradient at the final hidden states.

Both seeds are simple enough that the gradient is written down instead of left to autograd, so the full logits of a
document (tokens x vocabulary) never exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError

LOGIT_CHUNK_VALUES = 1 << 25  # logits held at one time by `log_probability` (128 MiB in float32)


def gold_logit(head: Any, hidden: Tensor, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over a document of the gold next-token logits, the last position contributing its maximal logit.

    S = (sum_{t<n-1} logit[t, x[t+1]] + max_v logit[n-1, v]) / n; it is linear in the hidden states.
    """
    documents = torch.arange(len(input_ids), device=hidden.device)
    last = lengths - 1
    target = input_ids.roll(-1, dims=1)  # (B, T)
    target[documents, last] = head(hidden[documents, last]).argmax(-1)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    share = _inside(input_ids, lengths).to(wide) / lengths[:, None]  # (B, T), 0 at pads
    gradient = head.weight[target].to(wide) * share[..., None]  # (B, T, H)
    value = (hidden.to(wide) * gradient).sum((1, 2))
    if head.bias is not None:
        value = value + (head.bias[target].to(wide) * share).sum(1)
    return value, gradient.to(hidden.dtype)


def log_probability(head: Any, hidden: Tensor, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean gold log-probability over the n - 1 predicted tokens of a document: minus its nll, in nats a token.

    S = sum_{t<n-1} (logit[t, x[t+1]] - ln sum_v exp logit[t, v]) / (n - 1).
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    value = torch.zeros(len(input_ids), dtype=wide, device=hidden.device)
    gradient = torch.zeros_like(hidden)
    document, position = torch.nonzero(_inside(input_ids, lengths - 1), as_tuple=True)  # (N,) each
    chunk = max(1, LOGIT_CHUNK_VALUES // head.weight.shape[0])
    for d, t in zip(document.split(chunk), position.split(chunk), strict=True):
        gold = input_ids[d, t + 1, None]  # (n, 1)
        share = 1 / (lengths[d] - 1).to(wide)  # (n,)
        log_p = head(hidden[d, t]).to(wide).log_softmax(-1)  # (n, V)
        value.index_add_(0, d, log_p.gather(1, gold)[:, 0] * share)
        slope = log_p.exp().neg_()
        slope.scatter_add_(1, gold, torch.ones_like(slope[:, :1]))  # dS/dlogit = (one-hot - p) / (n - 1)
        gradient[d, t] = (slope * share[:, None]).to(hidden.dtype) @ head.weight
    return value, gradient


@dataclass(frozen=True)
class Seed:
    """A seed function and the fewest tokens a document needs for it."""

    function: Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    shortest: int


SEEDS: dict[str, Seed] = {
    "gold_logit": Seed(gold_logit, shortest=1),
    "log_probability": Seed(log_probability, shortest=2),
}


def seed_named(name: str) -> Seed:
    """Look up a seed.

    Raises
    ------
    CraneError : there is none of that name
    """
    if name not in SEEDS:
        raise CraneError(f"unknown seed of the relevance pass {name!r}; use one of {', '.join(SEEDS)}")
    return SEEDS[name]


@torch.no_grad()
def seed_gradient(
    name: str, head: nn.Module, hidden: Tensor, *, input_ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Value of the seed and its gradient at the final hidden states.

    Parameters
    ----------
    head : the output embedding, a linear module of shape (V, H)
    hidden : (B, T, H), after the final norm
    input_ids : (B, T), right-padded
    lengths : (B,) tokens of each document

    Returns
    -------
    S (B,) at least in float32, and dS/dhidden (B, T, H), zero at pads
    """
    weight: Any = head.weight
    place = weight.device
    value, gradient = seed_named(name).function(head, hidden.detach().to(place), input_ids.to(place), lengths.to(place))
    return value, gradient.to(hidden.device)


def _inside(input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Mask (B, T): the first `lengths` positions of each row."""
    return torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
