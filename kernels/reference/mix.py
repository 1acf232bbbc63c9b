"""Mixing of a micro-batch, the specification of `kernels.mix`."""

from __future__ import annotations

from typing import NotRequired, TypedDict, Unpack

import torch
from torch import Tensor

from fastsemi.kernels.reference.noise import erase_noise, pixel_noise
from fastsemi.kernels.reference.weights import MixMode, MixWeights, labelled_mix_weights, mix_weights

__all__ = [
    "MixMode",
    "MixWeights",
    "PixelArgs",
    "labelled_mix",
    "labelled_mix_weights",
    "mix",
    "mix_images",
    "mix_weights",
]


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


def mix(
    mode: MixMode,
    images: Tensor,
    confidence: Tensor,
    partner: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    lam: Tensor,
    threshold: float,
    **pixels: Unpack[PixelArgs],
) -> tuple[Tensor, MixWeights]:
    """`mix_weights` of unlabelled images, and `mix_images` by them.

    Args:
        mode: As of `mix_weights`, and so are all tensors but `images`.
        images: uint8 [B, S, S, 3].
        confidence: float32 [B].
        partner: int64 [B].
        cutmix: bool [B].
        centre: float32 [B, 2].
        lam: float32 [B].
        threshold: Least confidence of a pseudo label that is used.
        **pixels: As of `mix_images`.

    Returns:
        Images [B, 3, S, S] and the weights they were mixed by.
    """
    weights = mix_weights(mode, confidence, partner, cutmix, centre, lam, threshold, images.shape[1])
    return mix_images(images, None if mode == "none" else weights, **pixels), weights


def labelled_mix(
    images: Tensor,
    partner: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    lam: Tensor,
    **pixels: Unpack[PixelArgs],
) -> tuple[Tensor, MixWeights]:
    """`labelled_mix_weights`, and `mix_images` by them; args and result as of `mix`."""
    weights = labelled_mix_weights(partner, cutmix, centre, lam, images.shape[1])
    return mix_images(images, weights, **pixels), weights


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
    if index is None:
        index = torch.arange(len(box), device=box.device)
    if not len(index):
        return
    if pixels.device.type == "cpu":
        _erase_boxes(pixels, box, key, index)
    else:
        _erase_samples(pixels, box, key, index)


def _erase_boxes(pixels: Tensor, box: Tensor, key: Tensor, index: Tensor) -> None:
    """Box by box, where reading the boxes waits for no device: noise is drawn for their pixels alone."""
    size = pixels.shape[-1]
    for sample, (left, top, width, height) in zip(index.numpy(), box[index].numpy(), strict=True):
        row, column = torch.arange(top, top + height)[:, None], torch.arange(left, left + width)
        noise = pixel_noise(key[sample], row * size + column)  # [height, width, 3]
        pixels[sample, :, top : top + height, left : left + width] = noise.permute(2, 0, 1)


def _erase_samples(pixels: Tensor, box: Tensor, key: Tensor, index: Tensor) -> None:
    """All samples at once, on any device, without a look at a box from the host."""
    size = pixels.shape[-1]
    noise = erase_noise(key[index], size, pixels.device).permute(0, 3, 1, 2)
    filled = torch.where(inside(box[index], size)[:, None], noise, pixels[index])
    pixels.index_copy_(0, index, filled)


def _per_channel(values: list[float], like: Tensor) -> Tensor:
    # Fills, not a copy of a host list: the copy would wait for the device.
    return torch.cat([like.new_full((1, 1), value) for value in values])[:, :, None]
