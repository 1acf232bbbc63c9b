"""Colour jitter and RandAugment of a loaded view, on the device where its pixels are.

Flip, random erasing and normalisation are not done here: they are part of the mixing kernel. timm flips
before RandAugment; the signs of rotation, shear and translation are symmetric, so flipping after it draws
from the same distribution.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

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

# Bytes of images that one CPU thread takes at a time: enough to hide the overhead of PyTorch's calls, few
# enough for the float32 temporaries to stay in the cache. 4 images of 224 pixels.
_CPU_PART = 600 << 10


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
    if not op.size:
        return images.clone()
    inference = torch.is_inference_mode_enabled()  # a setting of this thread that its helpers must share

    def augment_part(part: slice) -> Tensor:
        with torch.inference_mode(inference):
            return _augment(images[part], op[:, part], arg[:, part], fill, interpolation)

    if images.device.type != "cpu":
        return augment_part(slice(None))
    size, threads = max(1, _CPU_PART // images[0].numel()), torch.get_num_threads()
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    if len(parts) > 1 and threads > 1:
        return torch.cat(list(_pool(threads).map(augment_part, parts)))
    return torch.cat([augment_part(part) for part in parts])


def _augment(
    images: Tensor,
    op: NDArray[np.int64],
    arg: NDArray[np.float32],
    fill: tuple[int, int, int],
    interpolation: str,
) -> Tensor:
    """Apply operations and arguments [layers, b] to `images`, [b, S, S, 3]."""
    order = np.argsort(op, axis=1, kind="stable")
    device = images.device
    value = torch.from_numpy(np.take_along_axis(arg, order, axis=1)).to(device, non_blocking=True)
    move = torch.from_numpy(_moves(order)).to(device, non_blocking=True)
    for layer, codes in enumerate(np.take_along_axis(op, order, axis=1)):
        images = images.index_select(0, move[layer])
        done = []
        for code, rows in _runs(codes):
            group = images[rows]
            if code >= 0:
                name = RANDAUGMENT_OPS[code]
                group = apply_op(name, group, value[layer, rows], fill=fill, interpolation=interpolation)
            done.append(group)
        images = torch.cat(done)
    return images.index_select(0, move[-1])


def _moves(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row indices that bring a batch into each layer's order from the last one's, and back at the end.

    Args:
        order: [layers, b] permutations of the original rows.

    Returns:
        [layers + 1, b].
    """
    identity = np.arange(order.shape[1])[None]
    before, after = np.concatenate([identity, order]), np.concatenate([order, identity])
    return np.take_along_axis(np.argsort(before, axis=1), after, axis=1)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which PyTorch's operations do not start threads of their own.

    Many short operations parallelised one by one meet at a barrier each time, and crawl as soon as a decoder
    wants one of the cores; images are independent of each other.
    """
    pool = ThreadPoolExecutor(threads, "augment", initializer=torch.set_num_threads, initargs=(1,))
    started = threading.Barrier(threads)
    list(pool.map(lambda _: started.wait(timeout=60), range(threads)))
    # The number is a thread's own, but the last one set is also the default of threads yet to come.
    torch.set_num_threads(threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)


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


def _runs(codes: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Runs of equal operations in sorted `codes`."""
    for code, start, count in zip(*np.unique(codes, return_index=True, return_counts=True), strict=True):
        yield int(code), slice(start, start + count)
