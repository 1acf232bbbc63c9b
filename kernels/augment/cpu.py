"""Colour jitter and RandAugment of a loaded view, on the device where its pixels are.

The engines have flipped the views already, as timm does before RandAugment; erasing and normalisation
follow in the mixing kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastsemi.kernels.reference.augment import apply_op
from fastsemi.kernels.reference.warp import Fill
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS, ViewPlan

if TYPE_CHECKING:
    from fastsemi._native import Augmenter

# The columns of `ColorPlan.factor` as operations; saturation is "color" in timm's and Pillow's words.
_JITTER_OPS = np.array([RANDAUGMENT_OPS.index(name) for name in ("brightness", "contrast", "color")])

# Bytes of images to work on at a time on a CPU: enough to hide the overhead of PyTorch's calls, few enough
# for the float32 temporaries to stay in the cache. 4 images of 224 pixels.
_CPU_PART = 600 << 10


def augment_view(images: Tensor, view: ViewPlan, *, fill: Fill) -> Tensor:
    """Apply the colour jitter and then the RandAugment layers of a view's plan.

    The result of an image depends on its own pixels and its own row of the plan alone, not on what else is
    in the batch. The host does not wait for the device: images are grouped by operation from the plan, which
    is on the host, and the arguments go to the device in one copy. On a CPU the native operator does the work
    where it was built, with as many threads as PyTorch has, else PyTorch does; the pixels are the same.

    Args:
        images: [B, S, S, 3] uint8, contiguous; not modified.
        view: The plan of these B images.
        fill: Colour outside of warped images, red, green, blue in 0..255: timm uses the data mean times 255,
            rounded.

    Returns:
        [B, S, S, 3] uint8, a new tensor.

    Raises:
        ValueError: `images` is not uint8 NHWC, or the plan has another number of rows or no valid argument.
    """
    check_augment(images)
    op, arg = planned_layers(view, len(images))
    operator = _native_operator(torch.get_num_threads()) if images.device.type == "cpu" else None
    if operator is None or not images.numel():
        return augment_in_torch(images, op, arg, fill=fill)
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    operator.run(images.contiguous().numpy(), op, arg, fill, out.numpy())
    return out


def augment_in_torch(
    images: Tensor, op: NDArray[np.int64], arg: NDArray[np.float32], *, fill: Fill
) -> Tensor:
    """`augment_view` by the PyTorch reference; `op` and `arg` are the [layers, B] of `planned_layers`."""
    out = images.clone(memory_format=torch.contiguous_format)
    if images.device.type != "cpu" or not op.size:
        _augment_(out.unbind(), op, arg, fill)
        return out

    size = max(1, _CPU_PART // images[0].numel())
    order = np.lexsort(op[::-1])  # images of the same operations beside each other, for fewer calls
    samples = out.unbind()
    inference = torch.is_inference_mode_enabled()  # a setting of this thread that the other must share

    def augment_parts() -> None:
        with torch.inference_mode(inference):
            for start in range(0, len(images), size):
                part = order[start : start + size]
                _augment_([samples[i] for i in part], op[:, part], arg[:, part], fill)

    _serial_thread().submit(augment_parts).result()
    return out


def _augment_(images: Sequence[Tensor], op: NDArray[np.int64], arg: NDArray[np.float32], fill: Fill) -> None:
    """Apply operations and arguments [layers, b] to b images [S, S, 3], in place."""
    order = np.argsort(op, axis=1, kind="stable")
    sorted_arg = torch.from_numpy(np.take_along_axis(arg, order, axis=1))
    if images:
        sorted_arg = sorted_arg.to(images[0].device, non_blocking=True)
    for layer, codes in enumerate(np.take_along_axis(op, order, axis=1)):
        for name, run in _runs(codes):
            group = [images[row] for row in order[layer, run].tolist()]
            batch = torch.stack(group) if len(group) > 1 else group[0][None]
            result = apply_op(name, batch, sorted_arg[layer, run], fill=fill)
            torch._foreach_copy_(group, result.unbind())


@lru_cache(maxsize=1)
def _native_operator(threads: int) -> Augmenter | None:
    """The C++ operator (`kernels/csrc/augment/augment.cpp`) with that many threads, or None."""
    try:
        from fastsemi._native import Augmenter
    except ImportError:
        return None
    return Augmenter(threads)


@cache
def _serial_thread() -> ThreadPoolExecutor:
    """One thread in which PyTorch's operations do not start threads of their own.

    An operation on a few images takes some 20 µs. Split over threads, they meet at a barrier after each one
    and crawl as soon as a decoder wants one of the cores. Images dealt to several Python threads spend more
    than the gain on Python's lock.
    """
    threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(1, "augment", initializer=torch.set_num_threads, initargs=(1,))
    executor.submit(int).result()
    # The number is a thread's own, but the last one set is also the default of threads yet to come.
    torch.set_num_threads(threads)
    return executor


os.register_at_fork(after_in_child=_serial_thread.cache_clear)
os.register_at_fork(after_in_child=_native_operator.cache_clear)


def check_augment(images: Tensor) -> None:
    """Refuse what `augment_view` refuses."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be [B, S, S, 3] uint8, not {list(images.shape)} {images.dtype}")


def planned_layers(view: ViewPlan, batch: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Operations and arguments in the order of application, [layers, B] each; jitter comes first.

    Raises:
        ValueError: The plan has another number of rows.
    """
    ops, args = [np.empty((batch, 0), np.int64)], [np.empty((batch, 0), np.float32)]
    if view.color is not None:
        ops.append(_JITTER_OPS[view.color.order])
        args.append(np.take_along_axis(view.color.factor, view.color.order, axis=1))
    if view.randaugment is not None:
        ops.append(view.randaugment.op)
        args.append(view.randaugment.arg)
    if any(len(op) != batch for op in ops):
        raise ValueError(f"a plan of {[len(op) for op in ops[1:]]} rows does not fit {batch} images")
    op, arg = (np.ascontiguousarray(np.concatenate(columns, axis=1).T) for columns in (ops, args))
    return op, arg


def _runs(codes: NDArray[np.int64]) -> Iterator[tuple[str, slice]]:
    """Runs of equal operations in sorted `codes`; -1, none, is left out."""
    for code, start, count in zip(*np.unique(codes, return_index=True, return_counts=True), strict=True):
        if code >= 0:
            yield RANDAUGMENT_OPS[code], slice(start, start + count)
