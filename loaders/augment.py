"""Colour jitter and RandAugment of a loaded view, on the device where its pixels are.

Flip, random erasing and normalisation are not done here: they are part of the mixing kernel.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastsemi.errors import UserError
from fastsemi.kernels.reference.augment import apply_op
from fastsemi.kernels.reference.warp import TAPS
from fastsemi.loaders.batch import RANDAUGMENT_OPS, ViewPlan

# The columns of `ColorPlan.factor` as operations; saturation is "color" in timm's and Pillow's words.
_JITTER_OPS = np.array([RANDAUGMENT_OPS.index(name) for name in ("brightness", "contrast", "color")])

# Images one operation works on at a time on a CPU, so that its temporaries stay in the cache.
_CPU_CHUNK = 4


def augment_view(
    images: Tensor, view: ViewPlan, *, fill: tuple[int, int, int], interpolation: str = "bicubic"
) -> Tensor:
    """Apply the colour jitter and then the RandAugment layers of a view's plan.

    The result of an image depends on its own pixels and its own row of the plan alone, not on what else is
    in the batch. The host does not wait for the device: images are grouped by operation from the plan, which
    is on the host, and the groups' indices and arguments go to the device in two copies.

    Args:
        images: [B, S, S, 3] uint8, contiguous; not modified.
        view: The plan of these B images.
        fill: Colour outside of warped images, red, green, blue in 0..255: timm uses the data mean times 255,
            rounded.
        interpolation: "bicubic" or "bilinear", for rotation, shear and translation.

    Returns:
        [B, S, S, 3] uint8, a new tensor.

    Raises:
        UserError: The interpolation is unknown.
        ValueError: `images` is not uint8 NHWC, or the plan has another number of rows.
    """
    if interpolation not in TAPS:
        raise UserError(
            f"unknown interpolation {interpolation!r} for RandAugment; use {' or '.join(sorted(TAPS))}"
        )
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be [B, S, S, 3] uint8, not {list(images.shape)} {images.dtype}")
    op, arg = _layers(view, len(images))
    out = images.clone(memory_format=torch.contiguous_format)
    order = np.argsort(op, axis=1, kind="stable")
    index = torch.from_numpy(order).to(images.device, non_blocking=True)
    value = torch.from_numpy(np.take_along_axis(arg, order, axis=1)).to(images.device, non_blocking=True)
    chunk = _CPU_CHUNK if images.device.type == "cpu" else len(images)
    for layer, codes in enumerate(np.take_along_axis(op, order, axis=1)):
        for name, rows in _groups(codes, chunk):
            which = index[layer, rows]
            result = apply_op(
                name, out.index_select(0, which), value[layer, rows], fill=fill, interpolation=interpolation
            )
            out.index_copy_(0, which, result)
    return out


def _layers(view: ViewPlan, batch: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Operations and arguments in the order of application, [layers, B] each; jitter comes first."""
    ops, args = [np.empty((batch, 0), np.int64)], [np.empty((batch, 0), np.float32)]
    if view.color is not None:
        ops.append(_JITTER_OPS[view.color.order])
        args.append(np.take_along_axis(view.color.factor, view.color.order, axis=1))
    if view.randaugment is not None:
        ops.append(view.randaugment.op)
        args.append(view.randaugment.arg)
    if any(len(op) != batch for op in ops):
        raise ValueError(f"a plan of {[len(op) for op in ops[1:]]} rows does not fit {batch} images")
    return np.concatenate(ops, axis=1).T, np.concatenate(args, axis=1).T


def _groups(codes: NDArray[np.int64], chunk: int) -> Iterator[tuple[str, slice]]:
    """Runs of equal operations in sorted `codes`, cut into pieces of at most `chunk`; -1 is left out."""
    for code, start, count in zip(*np.unique(codes, return_index=True, return_counts=True), strict=True):
        if code < 0:
            continue
        for first in range(start, start + count, chunk):
            yield RANDAUGMENT_OPS[code], slice(first, min(first + chunk, start + count))
