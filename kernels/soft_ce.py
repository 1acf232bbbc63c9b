"""Cross-entropy against a mix of two labels in Triton: one pass forward, one backward, no [B, C] target.

With z = x - max x, S = sum exp z and the target t = (1 - s)(lam y_a + (1 - lam) y_b) + s / C, whose entries
add up to 1: loss = log S - (1 - s)(lam z_a + (1 - lam) z_b) - s mean z, and d loss / d x = exp z / S - t.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsemi.kernels.blocks.launch import launchable, row_block


@triton.jit
def soft_ce_forward_kernel(
    logits,
    label_a,
    label_b,
    lam,
    weight,
    loss,
    log_sum,
    smoothing,
    STRIDE: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row a program: its loss, and log sum exp x for the way back."""
    row = tl.program_id(0).to(tl.int64)
    w = tl.load(weight + row)
    if w == 0.0:  # a rejected sample costs no read of its logits, and NaN in them goes nowhere
        tl.store(loss + row, 0.0)
        tl.store(log_sum + row, 0.0)
    else:
        base = logits + row * STRIDE
        columns = tl.arange(0, BLOCK)
        real = columns < C
        x = tl.load(base + columns, mask=real, other=-float("inf")).to(tl.float32)
        top = _finite(tl.max(x, axis=0))
        total = tl.sum(tl.exp(x - top), axis=0)
        shifted = tl.sum(tl.where(real, x - top, 0.0), axis=0)  # sum of z
        for start in range(BLOCK, C, BLOCK):
            real = start + columns < C
            x = tl.load(base + start + columns, mask=real, other=-float("inf")).to(tl.float32)
            new_top = tl.maximum(top, _finite(tl.max(x, axis=0)))
            total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top), axis=0)
            shifted += start * (top - new_top) + tl.sum(tl.where(real, x - new_top, 0.0), axis=0)
            top = new_top
        ratio = tl.load(lam + row)
        z_a = tl.load(base + tl.load(label_a + row)).to(tl.float32) - top
        z_b = tl.load(base + tl.load(label_b + row)).to(tl.float32) - top
        value = tl.log(total) - (1.0 - smoothing) * (ratio * z_a + (1.0 - ratio) * z_b)
        if smoothing != 0.0:  # else 0 times the -inf of a switched-off class would be NaN
            value -= smoothing * (shifted / C)
        tl.store(loss + row, w * value)
        tl.store(log_sum + row, top + tl.log(total))


@triton.jit
def soft_ce_backward_kernel(
    logits,
    label_a,
    label_b,
    lam,
    weight,
    log_sum,
    grad_loss,
    grad_logits,
    smoothing,
    STRIDE: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of a row a program: weight * grad * (softmax - target)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = columns < C
    w = tl.load(weight + row)
    slope = tl.zeros((BLOCK,), tl.float32)
    if w != 0.0:  # else exactly 0, whatever the logits and the gradient of the loss hold
        x = tl.load(logits + row * STRIDE + columns, mask=real, other=0.0).to(tl.float32)
        ratio = tl.load(lam + row)
        target = tl.where(columns == tl.load(label_a + row), ratio, 0.0)
        target += tl.where(columns == tl.load(label_b + row), 1.0 - ratio, 0.0)
        slope = tl.exp(x - tl.load(log_sum + row)) - (1.0 - smoothing) * target - smoothing / C
        slope *= w * tl.load(grad_loss + row)
    tl.store(grad_logits + row * C + columns, slope.to(grad_logits.dtype.element_ty), mask=real)


@triton.jit
def _finite(top):
    # The shift cancels out, so any number serves a row or block of -inf alone, where -inf - -inf is NaN.
    return tl.where(top == -float("inf"), 0.0, top)


@torch.library.triton_op("fastsemi::soft_ce", mutates_args={})
def _soft_ce(
    logits: Tensor, label_a: Tensor, label_b: Tensor, lam: Tensor, weight: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    rows, columns = logits.shape
    loss = torch.empty(rows, dtype=torch.float32, device=logits.device)
    log_sum = torch.empty_like(loss)
    block, warps = row_block(columns)
    launchable(soft_ce_forward_kernel)[(rows,)](
        logits,
        label_a,
        label_b,
        lam,
        weight,
        loss,
        log_sum,
        smoothing,
        STRIDE=logits.stride(0),
        C=columns,
        BLOCK=block,
        num_warps=warps,
    )
    return loss, log_sum


@torch.library.triton_op("fastsemi::soft_ce_backward", mutates_args={})
def _soft_ce_backward(
    grad_loss: Tensor,
    logits: Tensor,
    label_a: Tensor,
    label_b: Tensor,
    lam: Tensor,
    weight: Tensor,
    log_sum: Tensor,
    smoothing: float,
) -> Tensor:
    rows, columns = logits.shape
    grad_logits = torch.empty(rows, columns, dtype=logits.dtype, device=logits.device)
    block, warps = row_block(columns)
    launchable(soft_ce_backward_kernel)[(rows, triton.cdiv(columns, block))](
        logits,
        label_a,
        label_b,
        lam,
        weight,
        log_sum,
        grad_loss,
        grad_logits,
        smoothing,
        STRIDE=logits.stride(0),
        C=columns,
        BLOCK=block,
        num_warps=warps,
    )
    return grad_logits


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.smoothing = inputs
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx: Any, grad_loss: Tensor, grad_log_sum: Tensor | None) -> tuple[Tensor | None, ...]:
    grad = _soft_ce_backward(grad_loss.contiguous(), *ctx.saved_tensors, ctx.smoothing)
    return grad, None, None, None, None, None


_soft_ce.register_autograd(_backward, setup_context=_save)


def two_label_cross_entropy(
    logits: Tensor,
    label_a: Tensor,
    label_b: Tensor,
    lam: Tensor,
    *,
    smoothing: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Loss of each sample, as `kernels.reference.soft_ce`; gradients flow to `logits` alone.

    Args:
        logits: [B, C], any float type; on a CUDA device, or on CPU under TRITON_INTERPRET=1.
        label_a: int64 [B], classes 0 to C - 1.
        label_b: int64 [B], likewise.
        lam: float32 [B], weight of `label_a`.
        smoothing: Label smoothing s in [0, 1).
        weight: float32 [B], factor of each row's loss; a row of weight 0 is not read, gives exactly 0 and
            gets a gradient of exactly 0. None for 1.

    Returns:
        float32 [B].
    """
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    weight = torch.ones_like(lam) if weight is None else weight.detach()
    loss, _ = _soft_ce(logits, label_a.contiguous(), label_b.contiguous(), lam.detach(), weight, smoothing)
    return loss
