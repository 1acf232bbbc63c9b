"""The energy of each sample in one pass over the logits, in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsemi.kernels.blocks.launch import launchable, row_block


@triton.jit
def energy_kernel(logits, out, STRIDE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """One row a program: max x + log sum exp(x - max x)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    top, total = -float("inf"), 0.0
    for start in range(0, C, BLOCK):
        here = start + columns
        x = tl.load(logits + row * STRIDE + here, mask=here < C, other=-float("inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(x, axis=0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top), axis=0)
        top = new_top
    tl.store(out + row, top + tl.log(total))


@torch.library.triton_op("fastsemi::toy", mutates_args={})
def _energy(logits: Tensor) -> Tensor:
    rows, columns = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    out = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block, warps = row_block(columns)
    launchable(energy_kernel)[(rows,)](
        logits, out, STRIDE=logits.stride(0), C=columns, BLOCK=block, num_warps=warps
    )
    return out


def energy(logits: Tensor) -> Tensor:
    """As `kernels.reference.toy`; on a CUDA device, or on a CPU under TRITON_INTERPRET=1."""
    return _energy(logits.detach())
