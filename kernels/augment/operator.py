"""Colour jitter and RandAugment of a batch in Triton: a few launches for all samples and operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from fastsemi.kernels.augment.cpu import check_augment, planned_layers
from fastsemi.kernels.augment.kernel import pass_kernel, statistics_kernel, tables_kernel
from fastsemi.kernels.augment.passes import schedule
from fastsemi.kernels.blocks.launch import launchable
from fastsemi.kernels.reference.warp import Fill
from fastsemi.loaders.plan.types import ViewPlan

MAX_GROUPS = 128  # groups of 16 pixels in a tile: one for each thread of four warps


def augment(images: Tensor, view: ViewPlan, *, fill: Fill) -> Tensor:
    """Apply a view's colour jitter and RandAugment, as `kernels.augment.cpu.augment_view`.

    Args and errors are the same; images are on a CUDA device, or on CPU under TRITON_INTERPRET=1. Colour
    operations equal the reference bit by bit; a few values in 10^4 of a warp are off by 1.

    The plan becomes passes on the host (`kernels.augment.passes`) and goes to the device in one copy. A round
    of passes is one launch, with one before it where a sample needs a statistic (contrast, autocontrast,
    equalize), and another where that is a table (the last two): two launches for a view of colour jitter, six
    at the most for two layers of RandAugment.
    """
    check_augment(images)
    op, arg = planned_layers(view, len(images))
    if not (op >= 0).any():
        return images.clone(memory_format=torch.contiguous_format)
    _, height, width, _ = images.shape
    plan = schedule(op, arg, height, width, triton.cdiv(height * width, 16 * _groups(height * width)))
    rounds = [number for one in plan.rounds for number in one]
    return _augment(images, *plan.to(images.device), rounds, plan.slots, list(fill))


def _groups(pixels: int) -> int:
    return min(max(triton.next_power_of_2(triton.cdiv(pixels, 16)), 32), MAX_GROUPS)


@torch.library.triton_op("fastsemi::augment", mutates_args={})
def _augment(
    images: Tensor,
    passes: Tensor,
    op: Tensor,
    arg: Tensor,
    affine: Tensor,
    rounds: Sequence[int],
    slots: int,
    fill: Sequence[int],
) -> Tensor:
    height, width = images.shape[1:3]
    pixels, groups = height * width, _groups(height * width)
    tiles = triton.cdiv(pixels, 16 * groups)
    images = images.contiguous()
    out = torch.empty_like(images)
    shape = {"HEIGHT": height, "WIDTH": width, "GROUPS": groups}
    source, begin = images, 0
    for count, looks, tables in zip(rounds[0::3], rounds[1::3], rounds[2::3], strict=True):
        mine = passes[begin : begin + count]
        wide = pixels % 16 == 0 and source.storage_offset() % 16 == 0
        partial = passes.new_empty(max((768 * tables + looks - tables) * tiles, 1))
        table = images.new_empty(max(tables, 1), 3, 256)
        if looks:
            # Bytes one at a time need more registers for their addresses, so more threads share a tile.
            warps = groups // 32 if wide else groups // 16
            launchable(statistics_kernel)[(looks * tiles,)](
                source, mine, op, arg, partial, WIDE=wide, num_warps=warps, **shape
            )
        if tables:
            launchable(tables_kernel)[(3 * tables,)](
                mine, op, partial, table, PIXELS=pixels, TILES=tiles, num_warps=4
            )
        # An image is read here and written there while others of the round do the same: two buffers.
        later = begin + count < len(passes)
        scratch = images.new_empty(slots if later else 1, height, width, 3)
        launchable(pass_kernel)[(count * tiles,)](
            source, out, scratch, mine, op, arg, affine, partial, table, *map(float, fill),
            WIDE=wide, num_warps=groups // 32, **shape,
        )  # fmt: skip
        source, begin = scratch, begin + count
    return out
