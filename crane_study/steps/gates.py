"""Gates of all neurons, learned jointly: closed where that costs one language much and the others nothing.

A gate multiplies a neuron's h: 1 is open, 0 silences it. Single effects do not add up, so the gates are moved together,
by projected gradient ascent (Adam: Kingma and Ba 2015, arXiv 1412.6980) on the NLL of real texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.batches import computed_batches, pad_batch
from crane_lib.nll import document_nll
from crane_lib.relevance.hooks import HookSet, frozen
from crane_lib.relevance.modules import parts_of
from crane_lib.relevance.objectives import Logits, objective_gradient

_DECAYS = (0.9, 0.99)  # of Adam's moments
_TIES = 1e-3  # weight of a gate's mean over all steps beside its end: gates that closed early come first


@dataclass(frozen=True)
class GateOptions:
    """Constants of learned gates.

    Attributes
    ----------
    steps, rate : steps of gradient ascent per language, and their size
    documents, tokens : number of documents of every language in a step, and of tokens at which they are cut
    penalty : factor of the rise of another language's NLL
    enough : rise of the language's own NLL that is not exceeded  (nats per token)
    random_seed : of the documents of each step
    """

    steps: int = 45
    rate: float = 0.05
    documents: int = 6
    tokens: int = 96
    penalty: float = 6.0
    enough: float = 3.0
    random_seed: int = 0


@contextmanager
def gated(model: PreTrainedModel, gates: Tensor) -> Iterator[None]:
    """Multiply every neuron's h by its gate (L, I) inside the block."""
    with HookSet() as hooks:
        for layer, factors in zip(parts_of(model).layers, gates, strict=True):
            hooks.before(layer.down, lambda _module, args, factors=factors: (args[0] * factors.to(args[0]), *args[1:]))
        yield


def gate_slopes(model: PreTrainedModel, documents: Sequence[np.ndarray], gates: Tensor) -> tuple[float, Tensor]:
    """NLL per token of some documents under gates (L, I), and its slope by every gate  (L, I)."""
    parts, gates = parts_of(model), gates.detach().requires_grad_()
    logits = Logits(parts.head, scale=parts.logit_scale, cap=parts.final_softcap, identity_rule=False)
    predicted = sum(len(text) - 1 for text in documents)

    def of_batch(batch: list[int]) -> tuple[float, Tensor]:
        tokens, mask = (item.to(model.device) for item in pad_batch([documents[place] for place in batch]))
        lengths = mask.sum(1)
        share = (lengths - 1) / predicted  # of each document in the tokens that are predicted
        with torch.enable_grad(), frozen(model), gated(model, gates):
            hidden = parts.backbone(input_ids=tokens, use_cache=False).last_hidden_state
            value, gradient = objective_gradient("log_probability", logits, hidden, input_ids=tokens, lengths=lengths)
            (slopes,) = torch.autograd.grad(hidden, gates, -gradient * share[:, None, None].to(gradient))
        return -(value * share).sum().item(), slopes

    longest = [max(map(len, documents))] * len(documents)
    found = [one for _batch, one in computed_batches([[*range(len(documents))]], longest, of_batch)]
    return sum(nll for nll, _slopes in found), torch.stack([slopes for _nll, slopes in found]).sum(0)


def learned_gates(
    model: PreTrainedModel,
    documents: Mapping[str, Sequence[np.ndarray]],
    *,
    options: GateOptions,
    token_budget: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Closure of every gate for every language, by gradient ascent over its steps.

    What is raised is the language's own NLL, until it has risen by `options.enough`, minus `options.penalty` times the
    NLL of each other language that has risen at all.

    Parameters
    ----------
    documents : token ids of documents by language
    token_budget : most tokens of a batch of the unmasked model
    advance : called after each step

    Returns
    -------
    language -> (L, I): 1 where the gate is closed at the end, 0 where it is open, plus a thousandth of its mean over
    the steps
    """
    documents = {k: [text[: options.tokens] for text in texts] for k, texts in documents.items()}
    plain = {k: document_nll(model, texts, token_budget=token_budget) for k, texts in documents.items()}
    return {own: _closed(model, documents, plain, own, options, advance) for own in documents}


def _closed(
    model: PreTrainedModel,
    documents: Mapping[str, Sequence[np.ndarray]],
    plain: Mapping[str, tuple[np.ndarray, np.ndarray]],
    own: str,
    options: GateOptions,
    advance: Callable[[], None],
) -> np.ndarray:
    """Closure of every gate for one language; `plain` is `document_nll` of the unmasked model."""
    parts = parts_of(model)
    generator = np.random.default_rng([options.random_seed, list(documents).index(own)])
    closed = torch.zeros(len(parts.layers), parts.widths["neuron"], device=model.device)
    first, second, total = torch.zeros_like(closed), torch.zeros_like(closed), torch.zeros_like(closed)
    for step in range(1, options.steps + 1):
        wanted = torch.zeros_like(closed)
        for language, texts in documents.items():
            chosen = generator.choice(len(texts), size=min(options.documents, len(texts)), replace=False)
            nll, slopes = gate_slopes(model, [texts[place] for place in chosen], 1 - closed)
            unmasked, tokens = (values[chosen].sum() for values in plain[language])
            rise = nll - unmasked / tokens
            if language == own and rise < options.enough:
                wanted -= slopes
            elif language != own and rise > 0:
                wanted += options.penalty * slopes
        first = _DECAYS[0] * first + (1 - _DECAYS[0]) * wanted
        second = _DECAYS[1] * second + (1 - _DECAYS[1]) * wanted.square()
        if wanted.any():
            slope = first / (1 - _DECAYS[0] ** step)
            size = (second / (1 - _DECAYS[1] ** step)).sqrt()
            closed = (closed + options.rate * slope / (size + 1e-12)).clamp(0, 1)
        total += closed
        advance()
    return (closed + _TIES * total / options.steps).cpu().numpy()
