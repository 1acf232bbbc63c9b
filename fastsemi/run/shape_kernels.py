"""The kernels by what they allocate: no pixel is computed."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from fastsemi.kernels.dispatch import Kernels
from fastsemi.kernels.reference.mix import PixelArgs
from fastsemi.kernels.reference.warp import Fill
from fastsemi.loaders.plan.types import ViewPlan


def _augment(images: Tensor, view: ViewPlan, *, fill: Fill) -> Tensor:
    torch.empty_like(images)  # at most: an image that needs several passes has a second buffer between them
    return torch.empty_like(images)


def _pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_zeros(len(logits), dtype=torch.int64), logits.new_ones(len(logits), dtype=torch.float32)


def _mix(
    images: Tensor,
    partner: Tensor,
    lam: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    *,
    even: bool = False,
    **pixels: Unpack[PixelArgs],
) -> tuple[Tensor, Tensor]:
    return _normalise(images, **pixels), torch.ones_like(lam)


def _normalise(images: Tensor, **pixels: Unpack[PixelArgs]) -> Tensor:
    batch, size = images.shape[:2]
    return images.new_zeros(batch, 3, size, size, dtype=pixels.get("dtype", torch.float32))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, *small: Tensor) -> Tensor:
        loss = logits.new_zeros(len(logits), dtype=torch.float32)
        ctx.save_for_backward(logits, *small, torch.zeros_like(loss))  # the last: a logarithm a row
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, *rest = ctx.saved_tensors
        return torch.zeros_like(logits), *[None for _ in rest[1:]]


def _two_label_cross_entropy(
    logits: Tensor,
    label_a: Tensor,
    label_b: Tensor,
    lam: Tensor,
    *,
    smoothing: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    weight = torch.ones_like(lam) if weight is None else weight
    loss: Tensor = _CrossEntropy.apply(logits, label_a, label_b, lam, weight)  # type: ignore[no-untyped-call]
    return loss


class ShapeKernels(Kernels):
    """Results of the right shapes and types, and the work buffers that a GPU's kernels allocate for them.

    In Triton each of these is a launch or a few, without temporary tensors of its own: the reference in plain
    PyTorch allocates several times as much, and a GPU with `kernels: torch` does too. Every pseudo label is
    class 0 with confidence 1, and every loss 0.
    """

    augment = staticmethod(_augment)
    pseudo_label = staticmethod(_pseudo_label)
    mix = staticmethod(_mix)
    normalise = staticmethod(_normalise)
    two_label_cross_entropy = staticmethod(_two_label_cross_entropy)
