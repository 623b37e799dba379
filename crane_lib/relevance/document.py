"""Relevance of a batch of documents by one forward and one backward pass.

1. Find the modules of the model that rules and taps attach to (`modules`, by the table of its family, `families`).
2. Put rules on them: the forward values stay, the backward pass computes relevance (`rules`).
3. Put taps on every MLP, which sum over tokens what the passes compute (`taps`).
4. Run the backbone once. Take the objective S of each document, and its gradient at the final hidden states, in closed
   form (`objectives`).
5. Propagate that gradient back to the input embeddings. The taps read R = h * dS/dh of every neuron, and the row sums
   of the gradient of every weight matrix, without computing a weight gradient.
6. Remove rules and taps, and stack the sums over layers: `DocumentRelevance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crane_lib.batches import rope_section
from crane_lib.errors import CraneError
from crane_lib.precision import widened
from crane_lib.relevance.hooks import checkpointed, frozen
from crane_lib.relevance.modules import ModelParts, parts_of
from crane_lib.relevance.objectives import Logits, objective_gradient, objective_named
from crane_lib.relevance.rules import RULES, relevance_rules
from crane_lib.relevance.taps import SITES, Taps, Watched


@dataclass(frozen=True)
class DocumentRelevance:
    """Results of a pass for each of B documents; float64 for a float64 model, else float32.

    With h the input of `down_proj`: `neuron` is sum_t h dS/dh and `abs_neuron` is sum_t |h dS/dh|, both (B, L, I).
    `gate` (None where the MLP has no gate), `up` (B, L, I) and `down` (B, L, H) are the row statistic: the gradient
    of that weight matrix summed over its input dimension. With o_h head h's part of the input of the attention's
    output projection, `head` is sum_t o_h . dS/do_h, `abs_head` sum_t |o_h . dS/do_h|, and `head_magnitude` sum_t |o_h|
    by the Euclidean norm, all (B, L, heads). `token` (B, T) is the relevance of the input embeddings, 0 at pads.
    `target` (B,) is S. `lengths` (B,) counts tokens; `active` (B, L, I) counts those with act(g) > 0, and
    `magnitude` (B, L, I) is sum_t |h|, `slope` (B, L, I) sum_t dS/dh. `watched` has the values of one neuron, token by
    token. Skipped tokens are in `target` and `token` only.
    """

    target: Tensor
    neuron: Tensor
    abs_neuron: Tensor
    gate: Tensor | None
    up: Tensor
    down: Tensor
    head: Tensor
    abs_head: Tensor
    head_magnitude: Tensor
    token: Tensor
    lengths: Tensor
    active: Tensor
    magnitude: Tensor
    slope: Tensor
    watched: Watched | None = None

    @property
    def sites(self) -> dict[str, Tensor]:
        """Values of the sites that the model has, by name."""
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
    skip_first_tokens: int = 0,
) -> DocumentRelevance:
    """Compute relevance for a right-padded batch of documents; the model is restored at the end.

    Documents do not attend to one another, so one backward pass from the sum of their S serves all. Attention looks
    back only, and pads follow every token, so they need no mask in the model.

    Parameters
    ----------
    input_ids, attention_mask : (B, T); the mask is 1 at tokens and 0 at pads; without it there are no pads
    objective : "gold_logit" or "log_probability", see `crane_lib.relevance.objectives`
    rule : "attnlrp", "cplrp" or "gradient", see `crane_lib.relevance.rules`
    checkpointing : recompute each layer instead of keeping what its backward pass needs
    watch : layer and index of a neuron whose values are kept token by token
    skip_first_tokens : sums over tokens leave out so many at the start of every document; the model reads them

    Raises
    ------
    CraneError : unknown model, rule or objective, padding that is not on the right, a document that is too short, a
        neuron that the model does not have, or documents that would change one another's rotary frequencies
    """
    parts = parts_of(model)
    if watch is not None:
        _check_neuron(parts, *watch)
    device = next(parts.embedding.parameters()).device
    input_ids = input_ids.to(device)
    if skip_first_tokens < 0:
        raise CraneError(f"skip_first_tokens is {skip_first_tokens}; give 0 or more")
    shortest = max(objective_named(objective).shortest, skip_first_tokens + 1)
    mask = _checked_mask(input_ids, attention_mask, shortest=shortest)
    lengths = mask.sum(1)
    section, width = rope_section(model), mask.shape[1]
    for length in lengths.tolist():
        if section(length) != section(width):
            raise CraneError(
                f"a document of {length} tokens in a batch {width} wide would get rotary frequencies of longer ones "
                "(rope type longrope); pass it in a batch of its own, or use stream_statistics, which parts batches"
            )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen(model),
        relevance_rules(model, rule),
        Taps(parts, mask, watch=watch, skip=skip_first_tokens) as taps,
        checkpointed([layer.module for layer in parts.layers] if checkpointing else []),
    ):
        hidden = parts.backbone(input_ids=input_ids, use_cache=False).last_hidden_state
        identity = RULES[rule] is not None
        logits = Logits(parts.head, scale=parts.logit_scale, cap=parts.final_softcap, identity_rule=identity)
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
        lengths=lengths - skip_first_tokens,
        active=collected(taps.active),
        magnitude=collected(taps.magnitude),
        slope=collected(taps.slope),
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
        raise CraneError(f"document {row} has {int(mask[row].sum())} tokens; the pass needs at least {shortest}")
    return mask
