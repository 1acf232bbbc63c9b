"""The small arrays of a plan as one block of bytes, so that they reach a device in one copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastsemi.loaders.plan.types import PlannedBatch

_ALIGNMENT = 16  # bytes; vector loads of kernels want no less
_HOST_ONLY = frozenset({"window", "flip", "resize"})  # what engines have already carried out


def planned_arrays(plan: PlannedBatch, valid: NDArray[np.bool_]) -> dict[str, NDArray]:
    """What a device may want to know of a batch.

    Returns:
        Arrays by name: `ids`, `labels`, `valid`, `mix.partner` and so on, `views.0.color.factor`, and where a
        view erases anything `views.1.erase.rows`, [N]: the samples with a box.
    """
    arrays = {"valid": valid, **dict(_walk("", plan))}
    for v, view in enumerate(plan.views):
        if view.erase is not None and len(rows := np.flatnonzero(view.erase.box[:, 2])):
            arrays[f"views.{v}.erase.rows"] = rows
    return arrays


def _walk(prefix: str, value: Any) -> list[tuple[str, NDArray]]:
    if isinstance(value, np.ndarray):
        return [(prefix, value)]
    inner: list[tuple[str, Any]] = []
    if isinstance(value, tuple):
        inner = [(str(i), item) for i, item in enumerate(value)]
    elif is_dataclass(value):
        inner = [(f.name, getattr(value, f.name)) for f in fields(value) if f.name not in _HOST_ONLY]
    dot = "." if prefix else ""
    return [found for name, item in inner for found in _walk(f"{prefix}{dot}{name}", item)]


@dataclass(frozen=True)
class Field:
    """Where an array lies in its block."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


Layout = dict[str, Field]


def pack(arrays: Mapping[str, NDArray], allocate: Callable[[int], Tensor]) -> tuple[Tensor, Layout]:
    """Copy arrays into one block.

    Args:
        arrays: By name.
        allocate: Gives [N] uint8 for a number of bytes.

    Returns:
        The block and where each array lies in it.
    """
    layout, end = {}, 0
    for name, array in arrays.items():
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        layout[name] = Field(end, array.shape, dtype)
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    block = allocate(end)
    for name, tensor in unpack(block, layout).items():
        tensor.numpy()[...] = arrays[name]
    return block, layout


def unpack(block: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The arrays of a block, on whatever device it lies, as tensors that share its memory."""
    result = {}
    for name, field in layout.items():
        size = int(np.prod(field.shape)) * field.dtype.itemsize
        result[name] = block[field.offset : field.offset + size].view(field.dtype).view(field.shape)
    return result


def upload(arrays: Mapping[str, NDArray], device: torch.device) -> dict[str, Tensor]:
    """Arrays on a device, in one copy that the host does not wait for; on the CPU without a copy."""
    if device.type == "cpu":
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    pinned = device.type == "cuda"
    block, layout = pack(arrays, lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=pinned))
    return unpack(block.to(device, non_blocking=True), layout)
