"""One forward and one backward pass over a batch of documents: everything the study reads from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crane_lib.errors import CraneError
from crane_lib.precision import widened
from crane_lib.relevance.hooks import checkpointed, frozen
from crane_lib.relevance.modules import ModelParts, parts_of
from crane_lib.relevance.objectives import Logits, objective_gradient, objective_named
from crane_lib.relevance.rules import RULES, relevance_rules
from crane_lib.relevance.taps import SITES, Taps, Watched


@dataclass(frozen=True)
class DocumentRelevance:
    """What one pass gives for each of B documents; float64 for a float64 model, else float32.

    With h the input of `down_proj`: `neuron` is sum_t h dS/dh and `abs_neuron` is sum_t |h dS/dh|, both (B, L, I).
    `gate` (None where the MLP has no gate), `up` (B, L, I) and `down` (B, L, H) are the row statistic: the gradient
    of that weight matrix summed over its input dimension. `token` (B, T) is the relevance of the input embeddings, 0
    at pads. `target` (B,) is S. `lengths` (B,) counts tokens; `active` (B, L, I) counts those with act(g) > 0.
    `watched` is the neuron asked for, token by token.
    """

    target: Tensor
    neuron: Tensor
    abs_neuron: Tensor
    gate: Tensor | None
    up: Tensor
    down: Tensor
    token: Tensor
    lengths: Tensor
    active: Tensor
    watched: Watched | None = None

    @property
    def sites(self) -> dict[str, Tensor]:
        """The values of every site that the model has, by name."""
        return {site: getattr(self, site) for site in SITES if getattr(self, site) is not None}


def document_relevance(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    objective: str = "gold_logit",
    rule: str = "attnlrp",
    checkpointing: bool = False,
    watch: tuple[int, int] | None = None,
) -> DocumentRelevance:
    """Compute relevance for a right-padded batch of documents; the model leaves as it came.

    Documents do not see one another, so one backward pass from the sum of their S serves all. No parameter gradient
    is made. A pad comes after every real token, and attention looks back only: pads need no mask in the model.

    Parameters
    ----------
    input_ids, attention_mask : (B, T); the mask is 1 at tokens and 0 at pads, no pads if it is left out
    objective : "gold_logit" or "log_probability", see `crane_lib.relevance.objectives`
    rule : "attnlrp", "cplrp" or "gradient", see `crane_lib.relevance.rules`
    checkpointing : compute each layer a second time instead of keeping what its backward pass needs
    watch : layer and index of a neuron whose values are kept token by token

    Raises
    ------
    CraneError : a model, rule or objective that is not known, padding that is not on the right, too short a document,
        or a neuron that the model does not have
    """
    parts = parts_of(model)
    if watch is not None:
        _check_neuron(parts, *watch)
    device = next(parts.embedding.parameters()).device
    input_ids = input_ids.to(device)
    mask = _checked_mask(input_ids, attention_mask, shortest=objective_named(objective).shortest)
    lengths = mask.sum(1)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen(model),
        relevance_rules(model, rule),
        Taps(parts, mask, watch=watch) as taps,
        checkpointed([layer.module for layer in parts.layers] if checkpointing else []),
    ):
        hidden = parts.backbone(input_ids=input_ids, use_cache=False).last_hidden_state
        logits = Logits(parts.head, cap=parts.final_softcap, identity_rule=RULES[rule] is not None)
        target, gradient = objective_gradient(objective, logits, hidden, input_ids=input_ids, lengths=lengths)
        (slope,) = torch.autograd.grad(hidden, taps.embedding, gradient)
    taps.check_complete()

    def collected(layers: dict[int, Tensor]) -> Tensor:
        return torch.stack([layers[index].to(target.device) for index in sorted(layers)], dim=1)

    found: dict[str, Any] = {site: collected(layers) for site, layers in taps.sums.items()}
    return DocumentRelevance(
        target=target,
        **({"gate": None} | found),
        token=(widened(taps.embedding.detach()) * slope).sum(-1),
        lengths=lengths,
        active=collected(taps.active),
        watched=taps.watched,
    )


def _check_neuron(parts: ModelParts, layer: int, index: int) -> None:
    layers, width = len(parts.layers), parts.widths["neuron"]
    if not 0 <= layer < layers:
        raise CraneError(f"layer {layer}: the model has the layers 0 to {layers - 1}")
    if not 0 <= index < width:
        raise CraneError(f"neuron {index}: a layer of the model has the neurons 0 to {width - 1}")


def _checked_mask(input_ids: Tensor, attention_mask: Tensor | None, *, shortest: int) -> Tensor:
    if input_ids.ndim != 2 or not input_ids.numel():
        raise CraneError(f"input_ids have the shape {tuple(input_ids.shape)}; expected (documents, tokens), not empty")
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.device)
    if mask.shape != input_ids.shape:
        raise CraneError(f"attention_mask is {tuple(mask.shape)} but input_ids are {tuple(input_ids.shape)}")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise CraneError("attention_mask has a token after a pad; pad on the right")
    too_short = torch.nonzero(mask.sum(1) < shortest)
    if len(too_short):
        row = int(too_short[0])
        raise CraneError(f"document {row} has {int(mask[row].sum())} tokens; this objective needs at least {shortest}")
    return mask
