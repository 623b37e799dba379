"""Ground truth: the effect of zeroing each neuron alone on the NLL of documents, measured for every or some neurons.

There is no approximation and no gradient: each number is the difference of two forward passes. Many neurons are
ablated at once, as copies of a batch, and a copy is computed only from the ablated layer on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crane_lib.batches import check_tokens, computed_batches, in_memory, pad_batch, rope_section, token_batches
from crane_lib.errors import CraneError
from crane_lib.nll import hidden_nll
from crane_lib.relevance.hooks import HookSet, frozen, wrapped_forward
from crane_lib.relevance.modules import LayerParts, ModelParts, family_of, parts_of


@torch.no_grad()
def ablation_effects(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int] | np.ndarray],
    *,
    token_budget: int,
    neurons: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Increase of every document's NLL when one neuron is zeroed, for every neuron; the model is restored.

    Parameters
    ----------
    documents : token ids, two or more per document
    token_budget : tokens of a forward pass, counting every copy of a document
    neurons : (L, I) True where a neuron is to be ablated, instead of all; the effects of the others are NaN
    progress : called with the number of effects measured and their total (documents x neurons)

    Returns
    -------
    (documents, L, I) float64, nats summed over a document's predicted tokens; positive if the neuron is needed

    Raises
    ------
    CraneError : unknown family, a document without a token to predict, or an NLL that is not finite
    """
    lengths = [len(document) for document in documents]
    if not lengths or min(lengths) < 2:
        raise CraneError("ablation: every document needs at least two tokens; is the corpus empty?")
    check_tokens(model, documents)
    parts, additive = parts_of(model), family_of(model).additive
    layers, width = len(parts.layers), parts.widths["neuron"]
    # Few documents at once, so that a pass holds many neurons: their common part is then rarely computed.
    budget = max(max(lengths), token_budget // 4)
    most = token_budget  # of the copies of a batch
    effects = np.full((len(documents), layers, width), np.nan)
    wanted = np.ones((layers, width), dtype=bool) if neurons is None else neurons
    done, total = 0, len(documents) * int(wanted.sum())
    report = progress or (lambda _done, _total: None)
    report(done, total)
    with frozen(model):
        for batch, unablated in computed_batches(
            token_batches(lengths, token_budget=budget, section=rope_section(model)),
            lengths,
            lambda batch: _UnablatedBatch(model, parts, *pad_batch([documents[index] for index in batch])),
        ):
            size, what = unablated.tokens.numel(), f"documents {batch}, one neuron ablated"
            for layer in range(layers):
                rest = torch.from_numpy(np.flatnonzero(wanted[layer]))
                while len(rest):
                    some = rest[: max(1, most // size)]
                    compute = partial(unablated.rise_without, layer, some, additive=additive)
                    if (rise := in_memory(compute, parts=len(some), length=size, what=what)) is None:
                        most = size * (len(some) // 2)
                        continue
                    effects[np.array(batch)[:, None], layer, some.numpy()] = rise.T.cpu().numpy()
                    rest, done = rest[len(some) :], done + rise.numel()
                    report(done, total)
    if not np.isfinite(effects[:, wanted]).all():
        raise CraneError("ablation: an NLL is not finite; the model's values overflow, use dtype: float32 or bfloat16")
    return effects


class _UnablatedBatch:
    """A batch of documents passed through the whole model, from which it is computed without single neurons."""

    def __init__(self, model: PreTrainedModel, parts: ModelParts, tokens: Tensor, mask: Tensor) -> None:
        self._model, self._parts = model, parts
        self._backbone: Any = parts.backbone
        self.tokens, self._mask = tokens.to(model.device), mask.to(model.device)
        self._outputs: list[Any] = []  # of each layer: hidden states (B, T, H), alone or the first of several
        self._activations: list[Tensor] = []  # of each layer's neurons  (B, T, I)
        with HookSet() as hooks:
            for layer in parts.layers:
                hooks.before(layer.down, lambda _module, args: self._activations.append(args[0]))
                hooks.after(layer.module, lambda _module, _args, output: self._outputs.append(output))
            hidden = self._backbone(input_ids=self.tokens, attention_mask=self._mask, use_cache=False).last_hidden_state
        self.nll = self.nll_of(hidden, copies=1)  # (1, B)

    def nll_of(self, hidden: Tensor, *, copies: int) -> Tensor:
        """NLL (copies, B) of final hidden states (copies * B, T, H)."""
        tokens, mask = self.tokens.repeat(copies, 1), self._mask.repeat(copies, 1)
        return hidden_nll(self._model, hidden, tokens, mask).view(copies, -1)

    def rise_without(self, layer: int, neurons: Tensor, *, additive: bool) -> Tensor:
        """Increase of the NLL (copies, B) without each neuron (copies,) of a layer."""
        without = self.resumed_without if additive else self.rerun_without
        hidden = without(layer, neurons.to(self.tokens.device))
        return self.nll_of(hidden, copies=len(neurons)) - self.nll

    def resumed_without(self, layer: int, neurons: Tensor) -> Tensor:
        """Final hidden states (copies * B, T, H), computed from the output of the layer less what a neuron adds."""
        output, activation = self._outputs[layer], self._activations[layer]
        if isinstance(output, tuple):
            output = output[0]
        weight = self._parts.layers[layer].rows["down"].weight()[:, neurons].T  # (copies, H)
        added = activation[..., neurons].movedim(-1, 0)[..., None] * weight[:, None, None]  # (copies, B, T, H)
        states = (output - added.to(output.device)).flatten(0, 1)
        mask = self._mask.repeat(len(neurons), 1)
        with _skipped(self._parts.layers[: layer + 1], self._outputs[: layer + 1]):
            return self._backbone(inputs_embeds=states, attention_mask=mask, use_cache=False).last_hidden_state

    def rerun_without(self, layer: int, neurons: Tensor) -> Tensor:
        """The same for any family: every copy goes through the whole model, its neuron zeroed on the way."""
        copies = torch.arange(len(neurons), device=neurons.device)

        def zero(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            found = args[0].view(len(neurons), len(self.tokens), *args[0].shape[1:]).clone()
            found[copies.to(found.device), :, :, neurons.to(found.device)] = 0.0
            return (found.view(args[0].shape), *args[1:])

        with HookSet() as hooks:
            hooks.before(self._parts.layers[layer].down, zero)
            tokens, mask = self.tokens.repeat(len(neurons), 1), self._mask.repeat(len(neurons), 1)
            return self._backbone(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state


@contextmanager
def _skipped(layers: Sequence[LayerParts], outputs: Sequence[Any]) -> Iterator[None]:
    """Let these layers return their input hidden states inside the block, in the form of their outputs.

    They stay in the model, because some families look up the kind of attention by the number of a layer.
    """

    def passing(output: Any) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *_given: Any, **_options: Any) -> Any:
            return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

        return lambda _own: forward

    with ExitStack() as stack:
        for layer, output in zip(layers, outputs, strict=True):
            stack.enter_context(wrapped_forward(layer.module, passing(output)))
        yield
