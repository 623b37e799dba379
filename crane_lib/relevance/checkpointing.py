"""Activation checkpointing: layers forget what they computed and compute it again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from crane_lib.models.precision import InDouble
from crane_lib.relevance.hooks import wrapped_forward


@contextmanager
def checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Keep only each layer's input inside the block: a third more time, a fraction of the memory.

    Hooks inside a layer fire again when it is computed again, before its own gradients flow.
    """
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(wrapped_forward(layer, _forgetting))
        yield


def _forgetting(forward: Callable[..., Any]) -> Callable[..., Any]:
    return partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts)


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of the first pass and of the second, in which precision must be that of the first."""
    return nullcontext(), InDouble.again()
