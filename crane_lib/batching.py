"""Documents of unequal length as one rectangular batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_batch(documents: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of documents padded on the right; which id pads does not matter.

    Returns
    -------
    ids (B, T) int64 and mask (B, T) bool, True at tokens
    """
    lengths = torch.tensor([len(document) for document in documents])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.tensor([token for document in documents for token in document])
    return ids, mask
