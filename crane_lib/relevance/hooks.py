"""Reversible changes of a model: hooks, wrapped forwards, evaluation mode and checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from crane_lib.precision import InDouble


class HookSet:
    """Hooks of one owner; at the end of the block exactly these are removed, and no one else's."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> HookSet:
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()

    def after(self, module: nn.Module, hook: Any) -> None:
        """Call `hook(module, args, output)` after the module's forward."""
        self._handles.append(module.register_forward_hook(hook))

    def before(self, module: nn.Module, hook: Any) -> None:
        """Call `hook(module, args)` before the module's forward."""
        self._handles.append(module.register_forward_pre_hook(hook))

    def remove(self) -> None:
        """Remove every hook of this set."""
        while self._handles:
            self._handles.pop().remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode (no dropout) without parameter gradients; the model is restored at the end."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for module in training:
            module.training = False
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def wrapped_forward(module: nn.Module, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace the forward of this module by `wrap(forward)` inside the block; its class is not changed."""
    before = vars(module).get("forward")  # its own, if another library has put one there
    try:
        module.__dict__["forward"] = wrap(module.forward)
        yield
    finally:
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = before


@contextmanager
def checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Keep only each layer's input inside the block: a third more time, a fraction of the memory.

    Hooks inside a layer fire again when it is recomputed, before its own gradients flow.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), InDouble.again()  # the recomputation must have the precision of the first pass

    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(wrapped_forward(layer, lambda forward: partial(checkpoint, forward, **options)))
        yield
