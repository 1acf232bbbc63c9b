"""Normalising, erasing and mixing of a micro-batch in Triton, in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
import triton
from torch import Tensor

from fastsemi.kernels.blocks.launch import launchable
from fastsemi.kernels.mix.kernel import PARTS, mix_kernel
from fastsemi.kernels.reference.mix import PixelArgs, check_pixels

MAX_GROUPS = 128  # groups of 16 pixels in a tile: one for each thread of four warps


def mix(
    images: Tensor,
    partner: Tensor,
    lam: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    *,
    even: bool = False,
    **pixels: Unpack[PixelArgs],
) -> tuple[Tensor, Tensor]:
    """Normalise, erase and mix, as `kernels.reference.mix.mix`.

    Args and errors are the same; tensors are on a CUDA device, or on CPU under TRITON_INTERPRET=1.
    `erase_index` is not needed here: noise is drawn inside the boxes alone.
    """
    return _mix(images, partner, lam, cutmix, centre, even, *_flat(images, pixels))


def normalise(images: Tensor, **pixels: Unpack[PixelArgs]) -> Tensor:
    """Normalise and erase, as `kernels.reference.mix.normalise`."""
    return _normalise(images, *_flat(images, pixels))


def _flat(images: Tensor, pixels: PixelArgs) -> tuple[Any, ...]:
    box, key = pixels.get("erase_box"), pixels.get("erase_key")
    check_pixels(images, box, key)
    return box, key, list(pixels["mean"]), list(pixels["std"]), pixels.get("dtype", torch.float32)


@torch.library.triton_op("fastsemi::mix", mutates_args={})
def _mix(
    images: Tensor,
    partner: Tensor,
    lam: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    even: bool,
    erase_box: Tensor | None,
    erase_key: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    kept = torch.empty_like(lam, memory_format=torch.contiguous_format)
    plan = (partner, lam, cutmix, centre, kept)
    out = _launch(images, plan, even, erase_box, erase_key, mean, std, dtype)
    return out, kept


@torch.library.triton_op("fastsemi::normalise", mutates_args={})
def _normalise(
    images: Tensor,
    erase_box: Tensor | None,
    erase_key: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    return _launch(images, None, False, erase_box, erase_key, mean, std, dtype)


def _launch(
    images: Tensor,
    plan: tuple[Tensor, ...] | None,
    even: bool,
    erase_box: Tensor | None,
    erase_key: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    batch, size = images.shape[:2]
    images = images.contiguous()
    out = torch.empty(batch, 3, size, size, dtype=dtype, device=images.device)
    groups = min(max(triton.next_power_of_2(triton.cdiv(size * size, 16)), 32), MAX_GROUPS)
    wide, mixes = size % 16 == 0 and images.storage_offset() % 16 == 0, plan is not None
    boxes = PARTS.value * (1 + mixes) if wide and erase_box is not None else 0
    launchable(mix_kernel)[(batch * (boxes + triton.cdiv(size * size, 16 * groups)),)](
        images,
        out,
        # An argument that is not read still needs a tensor in its place.
        *(images if t is None else t.contiguous() for t in (erase_box, erase_key)),
        *((images,) * 5 if plan is None else (t.contiguous() for t in plan)),
        *(255.0 * m for m in mean),
        *(1.0 / (255.0 * s) for s in std),
        SIZE=size,
        MIX=mixes,
        ERASE=erase_box is not None,
        WIDE=wide,
        GROUPS=groups,
        EVEN=int(even),
        BOXES=boxes,
        num_warps=groups // 32,
    )
    return out
