"""Pseudo labels and their confidence in one pass over the logits, in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsemi.kernels.blocks.launch import launchable, row_block


@triton.jit
def pseudo_label_kernel(
    logits, label, confidence, STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr
):
    """One row a program: label = argmax x, confidence = 1 / sum exp(x - max x)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    base = logits + row * STRIDE
    x = tl.load(base + columns, mask=columns < C, other=-float("inf")).to(tl.float32)
    top, best = tl.max(x, axis=0, return_indices=True)
    total = tl.sum(tl.exp(x - top), axis=0)
    for start in range(BLOCK, C, BLOCK):
        x = tl.load(base + start + columns, mask=start + columns < C, other=-float("inf")).to(tl.float32)
        block_top, block_best = tl.max(x, axis=0, return_indices=True)
        # Strictly greater, so that the first of equal maxima stays.
        best = tl.where(block_top > top, start + block_best, best)
        new_top = tl.maximum(top, block_top)
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top), axis=0)
        top = new_top
    # A NaN compares with nothing: keep the label a class (its confidence is NaN, so it is never used).
    tl.store(label + row, tl.minimum(best, C - 1).to(tl.int64))
    tl.store(confidence + row, tl.div_rn(1.0, total))


@torch.library.triton_op("fastsemi::pseudo_label", mutates_args={})
def _pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    label = torch.empty(rows, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block, warps = row_block(columns)
    launchable(pseudo_label_kernel)[(rows,)](
        logits, label, confidence, STRIDE=logits.stride(0), C=columns, BLOCK=block, num_warps=warps
    )
    return label, confidence


def pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Hard label and confidence of each sample, as `kernels.reference.pseudo_label`.

    Args:
        logits: [B, C], any float type; on a CUDA device, or on CPU under TRITON_INTERPRET=1.

    Returns:
        label int64 [B], the first of equal maxima (any class where a logit is NaN); confidence float32 [B].
    """
    return _pseudo_label(logits.detach())
