"""Mixing of a micro-batch in Triton: weights and pixels in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
import triton
from torch import Tensor

from fastsemi.kernels.launch import launchable
from fastsemi.kernels.mix.kernel import mix_kernel, weights_kernel
from fastsemi.kernels.reference.mix import MixMode, MixWeights, PixelArgs, check_pixels
from fastsemi.kernels.reference.weights import check_mode

MAX_GROUPS = 128  # groups of 16 pixels in a tile: one for each thread of four warps


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
    """Partner, weight, box and mask of unlabelled samples, as `kernels.reference.mix.mix_weights`.

    Args and errors are the same; tensors are on a CUDA device, or on CPU under TRITON_INTERPRET=1.
    """
    check_mode(mode)
    return MixWeights(*_mix_weights(mode, confidence, partner, cutmix, centre, lam, threshold, size))


def labelled_mix_weights(
    partner: Tensor, cutmix: Tensor, centre: Tensor, lam: Tensor, size: int
) -> MixWeights:
    """Mixup and cutmix of labelled samples, as `kernels.reference.mix.labelled_mix_weights`."""
    return MixWeights(*_mix_weights("labelled", lam, partner, cutmix, centre, lam, 0.0, size))


def mix_images(images: Tensor, weights: MixWeights | None, **pixels: Unpack[PixelArgs]) -> Tensor:
    """Flip, normalise, erase and mix by given weights, as `kernels.reference.mix.mix_images`.

    Args and errors are the same. `erase_index` is not needed here: noise is drawn inside the boxes alone.
    """
    given = None if weights is None else (weights.partner, weights.lam, weights.box)
    return _mix_images(images, *(given or (None, None, None)), *_flat(images, pixels))


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
    """`mix_weights` and `mix_images` in one launch, as `kernels.reference.mix.mix`."""
    check_mode(mode)
    out, *weights = _mix(
        mode, images, confidence, partner, cutmix, centre, lam, threshold, *_flat(images, pixels)
    )
    return out, MixWeights(*weights)


def labelled_mix(
    images: Tensor,
    partner: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    lam: Tensor,
    **pixels: Unpack[PixelArgs],
) -> tuple[Tensor, MixWeights]:
    """`labelled_mix_weights` and `mix_images` in one launch, as `kernels.reference.mix.labelled_mix`."""
    out, *weights = _mix("labelled", images, lam, partner, cutmix, centre, lam, 0.0, *_flat(images, pixels))
    return out, MixWeights(*weights)


def _flat(images: Tensor, pixels: PixelArgs) -> tuple[Any, ...]:
    check_pixels(images, pixels.get("erase_box"), pixels.get("erase_key"))
    return (
        pixels.get("flip"),
        pixels.get("erase_box"),
        pixels.get("erase_key"),
        list(pixels["mean"]),
        list(pixels["std"]),
        pixels.get("dtype", torch.float32),
        pixels.get("channels_last", False),
    )


@torch.library.triton_op("fastsemi::mix_weights", mutates_args={})
def _mix_weights(
    mode: str,
    confidence: Tensor,
    partner: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    lam: Tensor,
    threshold: float,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = _empty_weights(partner)
    launchable(weights_kernel)[(len(partner),)](
        *(t.contiguous() for t in (partner, cutmix, centre, lam, confidence)),
        *out,
        threshold,
        len(partner),
        BLOCK_B=_search_block(mode, len(partner)),
        SIZE=size,
        MODE=mode,
        num_warps=1,
    )
    return out


@torch.library.triton_op("fastsemi::mix", mutates_args={})
def _mix(
    mode: str,
    images: Tensor,
    confidence: Tensor,
    partner: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    lam: Tensor,
    threshold: float,
    flip: Tensor | None,
    erase_box: Tensor | None,
    erase_key: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    weights = _empty_weights(partner)
    plan = partner, cutmix, centre, lam, confidence, images, *weights
    return (
        _launch(mode, images, plan, threshold, flip, erase_box, erase_key, mean, std, dtype, channels_last),
        *weights,
    )


@torch.library.triton_op("fastsemi::mix_images", mutates_args={})
def _mix_images(
    images: Tensor,
    partner: Tensor | None,
    lam: Tensor | None,
    box: Tensor | None,
    flip: Tensor | None,
    erase_box: Tensor | None,
    erase_key: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    mode = "plain" if partner is None else "given"
    # An argument that the mode does not read still needs a tensor in its place.
    plan = [images if t is None else t for t in (partner, None, None, lam, None, box)] + [images] * 5
    return _launch(mode, images, plan, 0.0, flip, erase_box, erase_key, mean, std, dtype, channels_last)


def _empty_weights(partner: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    count = len(partner)
    return (
        torch.empty_like(partner),
        partner.new_empty(count, dtype=torch.float32),
        partner.new_empty(count, 4),
        partner.new_empty(count, dtype=torch.float32),
        partner.new_empty(count, dtype=torch.bool),
    )


def _search_block(mode: str, batch: int) -> int:
    # One number for the modes that do not search the batch: no compilation for each batch size.
    return triton.next_power_of_2(batch) if mode == "pseudo_plus" else 1


def _launch(
    mode: str,
    images: Tensor,
    plan: Sequence[Tensor],
    threshold: float,
    flip: Tensor | None,
    erase_box: Tensor | None,
    erase_key: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    batch, size = images.shape[:2]
    images = images.contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty(batch, 3, size, size, dtype=dtype, device=images.device, memory_format=layout)
    wide = size % 16 == 0 and images.storage_offset() % 16 == 0 and not (channels_last and flip is not None)
    groups = min(max(triton.next_power_of_2(triton.cdiv(size * size, 16)), 32), MAX_GROUPS)
    launchable(mix_kernel)[(batch * triton.cdiv(size * size, 16 * groups),)](
        images,
        images.view(-1).view(torch.int32) if wide else images,
        out,
        *(images if t is None else t.contiguous() for t in (flip, erase_box, erase_key)),
        *(t.contiguous() for t in plan),
        threshold,
        batch,
        *(255.0 * m for m in mean),
        *(1.0 / (255.0 * s) for s in std),
        BLOCK_B=_search_block(mode, batch),
        SIZE=size,
        MODE=mode,
        FLIP=flip is not None,
        ERASE=erase_box is not None,
        CHANNELS_LAST=channels_last,
        WIDE=wide,
        GROUPS=groups,
        num_warps=groups // 32,
    )
    return out
