"""A toy operation, the specification of `kernels.toy`: the energy of each sample."""

from __future__ import annotations

import torch
from torch import Tensor


def energy(logits: Tensor) -> Tensor:
    """log sum exp of each row, in float32.

    Args:
        logits: [B, C], any float type.

    Returns:
        float32 [B].
    """
    return torch.logsumexp(logits.detach().float(), dim=1)
