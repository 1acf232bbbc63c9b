"""Logits of labelled images, adjusted to how frequent the classes are among the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsemi.loaders.data import Data


class LogitAdjustment(nn.Module):
    """f(x) + tau log pi, whose cross-entropy is the logit-adjusted loss.

    Menon et al., "Long-tail learning via logit adjustment" (2021), eq. 10. The network's own logits f then
    speak of equally frequent classes where tau is 1.

    Args:
        shares: float [C], pi, how frequent the classes are; each positive.
        tau: Factor.
    """

    offset: Tensor  # float32 [C]

    def __init__(self, shares: Tensor, tau: float):
        super().__init__()
        self.register_buffer("offset", tau * shares.log().float(), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Logits [B, C] to put into the loss."""
        return logits.float() + self.offset


def create_adjustment(tau: float, data: Data) -> nn.Module:
    """What `logit_adjustment` says; with 0 the logits stay what they are."""
    return LogitAdjustment(labelled_shares(data), tau) if tau else nn.Identity()


def labelled_shares(data: Data) -> Tensor:
    """How frequent the classes are among the labels, float [C]; one without any counts as half a label."""
    images = data.labelled
    labels = torch.as_tensor(images.index.labels[images.ids].astype("int64"), device="cpu")
    counts = torch.bincount(labels, minlength=len(data.classes)).clamp(min=0.5)
    return counts / counts.sum()
