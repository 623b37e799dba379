"""From final hidden states to logits, as a model's own forward pass goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from crane_lib.models.precision import widened


def output_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits (..., V) of hidden states (..., H), in at least float32; capped where the model caps them (Gemma)."""
    head: Any = model.get_output_embeddings()
    logits = widened(head(hidden))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
