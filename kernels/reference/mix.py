"""Mixing of a micro-batch, the specification of `kernels.mix`: who with whom, how much, and the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict, get_args

import torch
from torch import Tensor

from fastsemi.errors import UserError
from fastsemi.kernels.reference.noise import erase_noise

MixMode = Literal["none", "pseudo", "pseudo_plus", "prob"]


class PixelArgs(TypedDict):
    """The keyword arguments of `mix_images`, which explains them."""

    flip: NotRequired[Tensor | None]
    erase_box: NotRequired[Tensor | None]
    erase_key: NotRequired[Tensor | None]
    erase_index: NotRequired[Tensor | None]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: NotRequired[torch.dtype]
    channels_last: NotRequired[bool]


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


def mix_images(
    images: Tensor,
    weights: MixWeights | None,
    *,
    flip: Tensor | None = None,
    erase_box: Tensor | None = None,
    erase_key: Tensor | None = None,
    erase_index: Tensor | None = None,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """Flip, normalise, erase and mix, in this order; computed in float32 and rounded once at the end.

    Sample i takes the pixels of its partner as flipped and erased, but not mixed: inside its box for
    cutmix, everywhere with weight `1 - lam` for mixup (equation 3 of the paper).

    Args:
        images: uint8 [B, S, S, 3].
        weights: How to mix, for the same B samples; None to mix nothing.
        flip: bool [B], samples to mirror left to right; None for none.
        erase_box: int64 [B, 4], left, top, width, height in the flipped image, width 0 for none; filled
            with `erase_noise` after normalisation, as RandomErasing of timm does in mode "pixel".
        erase_key: int64 [B, 2], keys of that noise; needed with `erase_box`.
        erase_index: int64 [E], the samples that have a box, where the caller knows them (the plan does).
            Noise is then drawn for these alone; None draws it for all samples.
        mean: Of each channel, for pixel values in 0 to 1.
        std: Likewise.
        dtype: Float type of the result.
        channels_last: Lay the result out as [B, S, S, 3] in memory (`torch.channels_last`).

    Returns:
        [B, 3, S, S] of type `dtype`.
    """
    check_pixels(images, erase_box, erase_key)
    if flip is not None:
        images = torch.where(flip[:, None, None, None], images.flip(2), images)
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    pixels.sub_(_per_channel([255.0 * m for m in mean], pixels)).div_(
        _per_channel([255.0 * s for s in std], pixels)
    )
    if erase_box is not None and erase_key is not None:
        _erase(pixels, erase_box, erase_key, erase_index)
    if weights is not None:
        mixup = (weights.box[:, 2] == 0)[:, None, None]
        own = torch.where(
            mixup, weights.lam[:, None, None], 1.0 - inside(weights.box, pixels.shape[-1]).float()
        )
        pixels = torch.lerp(pixels[weights.partner], pixels, own[:, None])
    return pixels.to(dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def check_mode(mode: str) -> None:
    """Refuse an unknown mixing mode.

    Raises:
        UserError: It is none of `MixMode`.
    """
    if mode not in get_args(MixMode):
        known = ", ".join(get_args(MixMode))
        raise UserError(f"mixing mode {mode!r} in semi.mixing is unknown; use one of {known}")


def check_pixels(images: Tensor, erase_box: Tensor | None, erase_key: Tensor | None) -> None:
    """Refuse arguments of `mix_images` that fit no kernel.

    Raises:
        ValueError: Images are not uint8 [B, S, S, 3], or boxes come without keys.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (images.shape[1],) * 2 + (3,):
        raise ValueError(f"images must be uint8 [B, S, S, 3], not {images.dtype} {list(images.shape)}")
    if erase_box is not None and erase_key is None:
        raise ValueError("erase_box needs erase_key, the keys of the noise")


def inside(box: Tensor, size: int) -> Tensor:
    """Pixels inside each box.

    Args:
        box: int64 [B, 4], left, top, width, height.
        size: Side S of the images in pixels.

    Returns:
        bool [B, S, S], indexed by row, then column.
    """
    position = torch.arange(size, device=box.device)
    low, extent = box[:, :2, None], box[:, 2:, None]
    hit = (position >= low) & (position < low + extent)  # [B, 2, S]: columns, then rows
    return hit[:, 1, :, None] & hit[:, 0, None, :]


def _erase(pixels: Tensor, box: Tensor, key: Tensor, index: Tensor | None) -> None:
    size = pixels.shape[-1]
    target = pixels
    if index is not None:
        if not len(index):
            return
        target, box, key = pixels[index], box[index], key[index]
    noise = erase_noise(key, size, pixels.device).permute(0, 3, 1, 2)
    filled = torch.where(inside(box, size)[:, None], noise, target)
    if index is None:
        pixels.copy_(filled)
    else:
        pixels.index_copy_(0, index, filled)


def _per_channel(values: list[float], like: Tensor) -> Tensor:
    # Fills, not a copy of a host list: the copy would wait for the device.
    return torch.cat([like.new_full((1, 1), value) for value in values])[:, :, None]
