"""Documents of unequal length as one rectangular batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def pad_batch(documents: Sequence[Sequence[int] | np.ndarray]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of documents (lists or integer arrays) padded on the right; which id pads does not matter.

    Returns
    -------
    ids (B, T) int64 and mask (B, T) bool, True at tokens
    """
    lengths = torch.tensor([len(document) for document in documents])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.from_numpy(np.concatenate([np.asarray(document, dtype=np.int64) for document in documents]))
    return ids, mask
