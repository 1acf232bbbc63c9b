"""Who is mixed with whom, and how much: the specification of the weights of `kernels.mix`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fastsemi.common.errors import UserError

MixMode = Literal["none", "pseudo", "pseudo_plus", "prob"]


@dataclass(frozen=True)
class MixWeights:
    """How each sample i of a micro-batch is mixed, and whether its pseudo label counts."""

    partner: Tensor  # int64 [B] the sample j mixed into i
    lam: Tensor  # float32 [B] weight of sample i in the target and, for mixup, in every pixel
    box: Tensor  # int64 [B, 4] left, top, width, height of the pixels that cutmix takes from j; 0 for mixup
    confidence: Tensor  # float32 [B] confidence after mixing, o* of equation 5
    keep: Tensor  # bool [B] whether the sample adds to the loss


def mix_weights(
    mode: MixMode,
    confidence: Tensor,
    partner: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    lam: Tensor,
    threshold: float,
    size: int,
) -> MixWeights:
    """Partner, weight, box and mask of unlabelled samples: section 3 of the paper.

    `none` mixes nothing. `pseudo` (3.2) mixes all by the drawn weight and keeps `o_i >= threshold`.
    `pseudo_plus` (3.2) mixes the clean samples (`o_i >= threshold`) among themselves: each with the next
    clean one in the list `partner`, the last with the first; the others stay as they are and are dropped.
    `prob` (3.3) weighs by `o_i / (o_i + o_j)` (equation 4) and keeps `max(o_i, o_j) >= threshold`
    (equation 5). A sample that is its own partner has weight 1.

    Args:
        mode: Which of the variations above.
        confidence: float32 [B], positive.
        partner: int64 [B], a permutation of 0 to B - 1.
        cutmix: bool [B], cutmix instead of mixup.
        centre: float32 [B, 2], centre (x, y) of the cutmix box as a fraction of the side, in [0, 1).
        lam: float32 [B], the Beta draw, used by `pseudo` and `pseudo_plus`.
        threshold: Least confidence of a pseudo label that is used.
        size: Side S of the images in pixels.

    Raises:
        UserError: `mode` is none of the four.
    """
    check_mode(mode)
    index = torch.arange(len(confidence), device=confidence.device)
    clean = confidence >= threshold
    if mode == "none":
        return MixWeights(index, torch.ones_like(lam), index.new_zeros(len(index), 4), confidence, clean)
    if mode == "pseudo_plus":
        partner = next_clean(partner, clean)
    if mode == "prob":
        other = confidence[partner]
        lam = confidence / (confidence + other)
        confidence = torch.maximum(confidence, other)
        clean = confidence >= threshold
    lam, box = _corrected(partner, cutmix, centre, lam, size)
    return MixWeights(partner, lam, box, confidence, clean)


def labelled_mix_weights(
    partner: Tensor, cutmix: Tensor, centre: Tensor, lam: Tensor, size: int
) -> MixWeights:
    """Mixup and cutmix of labelled samples by the drawn weight, all of them kept with confidence 1.

    Args:
        partner: int64 [B], a permutation of 0 to B - 1.
        cutmix: bool [B], cutmix instead of mixup.
        centre: float32 [B, 2], centre (x, y) of the cutmix box as a fraction of the side, in [0, 1).
        lam: float32 [B], the Beta draw.
        size: Side S of the images in pixels.
    """
    lam, box = _corrected(partner, cutmix, centre, lam, size)
    return MixWeights(partner, lam, box, torch.ones_like(lam), torch.ones_like(cutmix))


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


def box_of(lam: Tensor, centre: Tensor, cutmix: Tensor, size: int) -> Tensor:
    """Cutmix boxes: a square of `floor(S sqrt(1 - lam))` pixels around the centre, clipped at the border.

    The edges are those of timm's `rand_bbox` with margin 0.

    Args:
        lam: float32 [B], the weight that the unclipped box would leave to the sample.
        centre: float32 [B, 2], centre (x, y) as a fraction of the side, in [0, 1).
        cutmix: bool [B], samples that have a box at all.
        size: Side S of the images in pixels.

    Returns:
        int64 [B, 4]: left, top, width, height; all 0 where there is no box or it holds no pixel.
    """
    side = (size * torch.sqrt(1.0 - lam)).to(torch.int64)[:, None]  # [B, 1]
    middle = (size * centre).to(torch.int64).clamp(max=size - 1)  # [B, 2]; the product may round up to S
    low = (middle - side // 2).clamp(min=0)
    high = (middle + (side + 1) // 2).clamp(max=size)
    return torch.cat([low, high - low], dim=1) * (cutmix[:, None] & (side > 0))


def _corrected(
    partner: Tensor, cutmix: Tensor, centre: Tensor, lam: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    alone = partner == torch.arange(len(partner), device=partner.device)
    box = box_of(lam, centre, cutmix & ~alone, size)
    pixels = size * size
    kept = (pixels - box[:, 2] * box[:, 3]).to(torch.float32) / pixels  # after clipping
    return torch.where(alone, 1.0, torch.where(cutmix, kept, lam)), box


def check_mode(mode: str) -> None:
    """Refuse an unknown mixing mode.

    Raises:
        UserError: It is none of `MixMode`.
    """
    if mode not in get_args(MixMode):
        known = ", ".join(get_args(MixMode))
        raise UserError(f"mixing mode {mode!r} in semi.mixing is unknown; use one of {known}")
