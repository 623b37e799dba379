"""Precision of a model's arithmetic: float64 where a model is in float64, at least float32 for what is summed up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel


class InDouble(TorchFunctionMode):
    """Inside the block, whatever would be computed in float32 (norms, rotary angles, the loss) is in float64."""

    _open: ClassVar[int] = 0  # blocks that are open now

    def __enter__(self) -> InDouble:
        super().__enter__()
        InDouble._open += 1
        return self

    def __exit__(self, *raised: Any) -> None:
        InDouble._open -= 1
        super().__exit__(*raised)

    @classmethod
    def again(cls) -> AbstractContextManager[Any]:
        """For what is computed again later: in float64 then, too, if it is now."""
        return cls() if cls._open else nullcontext()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = [torch.float64 if value is torch.float32 else value for value in args]
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def _in_double(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with InDouble():
            return forward(*args, **kwargs)

    return run


def compute_in_double(model: PreTrainedModel) -> None:
    """Let a float64 model compute its layers in float64, for as long as it lives; other models stay as they are.

    Implementations in transformers take norms and rotary angles in float32 whatever the model's type is, and sums in
    float32 differ in the seventh digit between processors. In float64 a study has the same numbers everywhere, to far
    more digits than it prints.
    """
    for module in model.modules():
        if "inv_freq" in dict(module.named_buffers(recurse=False)):
            _double_frequencies(module)
    decoder = model.base_model
    decoder.__dict__["forward"] = _in_double(decoder.forward)  # on the instance: its class stays as it is


def _double_frequencies(rotary: nn.Module) -> None:
    """Frequencies computed in float64: those there were rounded to float32 when the module was made."""
    with InDouble():
        build: Any = type(rotary)
        fresh = build(rotary.config)
    for name, buffer in fresh.named_buffers():
        rotary.register_buffer(name, buffer.to(getattr(rotary, name).device), persistent=False)


def widened(value: Tensor) -> Tensor:
    """Give the same values in at least float32, in which sums are taken."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
