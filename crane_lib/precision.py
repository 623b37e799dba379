"""Precision of arithmetic: float64 throughout for a float64 model, at least float32 for sums."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel


class InDouble(TorchFunctionMode):
    """Compute in float64 inside the block what would be in float32: norms, rotary angles, the loss."""

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
        """Return a context for a later recomputation: float64 if this block is open now."""
        return cls() if cls._open else nullcontext()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = [torch.float64 if value is torch.float32 else value for value in args]
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def compute_in_double(model: PreTrainedModel) -> None:
    """Let a float64 model compute its layers in float64 from now on; other models are not changed.

    Implementations in transformers compute norms and rotary angles in float32 whatever the model's type is, and sums
    in float32 differ in the seventh digit between processors. In float64 a study has the same numbers on every
    machine, to far more digits than it prints.
    """
    for module in model.modules():
        exact: dict[str, Tensor] = {}  # constants that were rounded to float32 when the module was made
        for name, _rounded in module.named_buffers(recurse=False):
            if name.endswith("inv_freq") and not exact:  # one, or one for each type of layer
                with InDouble():
                    build: Any = type(module)
                    exact = dict(build(module.config).named_buffers())
            elif name == "embed_scale":
                exact = {name: torch.tensor(module.scalar_embed_scale, dtype=torch.float64)}
        for name, buffer in exact.items():
            module.register_buffer(name, buffer.to(getattr(module, name).device), persistent=False)
    decoder = model.base_model
    forward = decoder.forward

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with InDouble():
            return forward(*args, **kwargs)

    decoder.__dict__["forward"] = run  # on the instance: its class stays as it is


def widened(value: Tensor) -> Tensor:
    """The same values in at least float32, for sums."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
