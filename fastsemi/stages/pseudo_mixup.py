"""Pseudo mixup (section 3 of the paper): who is mixed with whom, by which weight, and what that counts.

Plain PyTorch on a few numbers a sample; `kernels.mix` makes the pixels. Nothing waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastsemi.common.errors import UserError
from fastsemi.stages.semi_config import MixMode


class Pairs(NamedTuple):
    """How each sample i of a micro-batch is mixed."""

    partner: Tensor  # int64 [Nu] the sample j mixed into i; i itself for none
    lam: Tensor  # float32 [Nu] weight of i
    weight: Tensor  # float32 [Nu] how much the mixed sample counts in the loss; 0 is rejected


def pair(mode: MixMode, confidence: Tensor, trusted: Tensor, partner: Tensor, lam: Tensor) -> Pairs:
    """The pairs of pseudo mixup.

    - `none` leaves every sample alone.
    - `pseudo` (3.2) mixes all by the drawn weight. As in `none`, a sample counts by its own pseudo label.
    - `pseudo_plus` (3.2) mixes the clean samples, those that count, among themselves: each with the next
      clean one in the list `partner`, the last with the first.
    - `prob` (3.3) weighs by the confidences. A pair counts by the more confident of its pseudo labels, the
      sample's own where they are equal: with one threshold this is `max(o_i, o_j) >= tau`.

    Args:
        mode: Which of them.
        confidence: float32 [Nu], o, positive.
        trusted: float32 [Nu], how much the pseudo label counts; the paper's rule is `[o >= tau]`.
        partner: int64 [Nu], the drawn partners, a permutation of 0 to Nu - 1.
        lam: float32 [Nu], the drawn weights.

    Raises:
        UserError: The mode is none of the four.
    """
    match mode:
        case "none":
            return Pairs(torch.arange(len(partner), device=partner.device), torch.ones_like(lam), trusted)
        case "pseudo":
            return Pairs(partner, lam, trusted)
        case "pseudo_plus":
            return Pairs(next_clean(partner, trusted > 0), lam, trusted)
        case "prob":
            own, other = confidence, confidence[partner]  # o_i, o_j
            lam = own / (own + other)  # equation 4
            return Pairs(partner, lam, torch.where(own >= other, trusted, trusted[partner]))  # equation 5
    raise UserError(
        f"mixing mode {mode!r} in semi.mixing is unknown; use one of none, pseudo, pseudo_plus, prob"
    )


def next_clean(partner: Tensor, clean: Tensor) -> Tensor:
    """For each clean sample the clean one after it in the list `partner` (cyclic); for others themselves.

    Args:
        partner: int64 [B], a permutation of 0 to B - 1, read as a list of samples.
        clean: bool [B], by sample.

    Returns:
        int64 [B], a permutation; a lone clean sample is its own partner.
    """
    front = partner[torch.argsort((~clean[partner]).to(torch.uint8), stable=True)]  # the clean ones first
    position = torch.arange(len(partner), device=partner.device)
    count = clean.sum()
    following = front[torch.where(position + 1 < count, position + 1, 0)]
    return torch.empty_like(partner).scatter_(0, front, torch.where(position < count, following, front))
