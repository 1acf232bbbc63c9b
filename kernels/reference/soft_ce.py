"""Cross-entropy against a mix of two labels, the specification of `kernels.soft_ce`."""

from __future__ import annotations

import torch
from torch import Tensor


def two_label_cross_entropy(
    logits: Tensor,
    label_a: Tensor,
    label_b: Tensor,
    lam: Tensor,
    *,
    smoothing: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Loss of each sample against `(1 - s) (lam y_a + (1 - lam) y_b) + s / C`, without a [B, C] target.

    A row of weight 0 gives exactly 0 and a gradient of exactly 0, whatever its logits hold (NaN and
    infinity included): a rejected sample can never reach the weights.

    Args:
        logits: [B, C], any float type; the softmax is taken in float32. Gradients flow to it alone.
        label_a: int64 [B], classes 0 to C - 1, in rows of weight 0 too.
        label_b: int64 [B], likewise.
        lam: float32 [B], weight of `label_a` (equation 3 of the paper).
        smoothing: Label smoothing s in [0, 1).
        weight: float32 [B], factor of each row's loss (the mask of kept samples); None for 1.

    Returns:
        float32 [B].
    """
    lam, scores = lam.detach(), logits.float()
    if weight is not None:
        # Chosen before the softmax: a zero times the softmax's own NaN would still be NaN.
        scores = torch.where((weight != 0)[:, None], scores, 0.0)
    # With z = x - max x the target's weights add up to 1, so the loss is log sum exp z minus the target's
    # mean of z. Its gradient is softmax - target without a sum over C of small terms, as log_softmax takes.
    scores = scores - scores.detach().amax(dim=1, keepdim=True)
    picked = scores.gather(1, torch.stack([label_a, label_b], dim=1))  # [B, 2]
    loss = scores.exp().sum(dim=1).log() - (1.0 - smoothing) * (
        lam * picked[:, 0] + (1.0 - lam) * picked[:, 1]
    )
    if smoothing:
        loss = loss - smoothing * scores.mean(dim=1)
    return loss if weight is None else loss * weight.detach()
