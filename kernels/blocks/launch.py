"""What every Triton operator here shares: how a kernel is launched, and the block sizes of row kernels."""

from __future__ import annotations

from typing import Any

import triton
from torch.library import wrap_triton

MAX_BLOCK = 4096  # columns of a row that one pass holds in registers


def launchable(kernel: Any) -> Any:
    """`wrap_triton`, except under TRITON_INTERPRET=1: older PyTorch refuses interpreted functions."""
    return wrap_triton(kernel) if isinstance(kernel, triton.JITFunction) else kernel


def row_block(columns: int) -> tuple[int, int]:
    """Block size and number of warps for a kernel that takes one row per program.

    Args:
        columns: Length of a row.

    Returns:
        The block size, a power of two, and `num_warps`: up to 16 columns a thread, which are two loads of
        16 bytes of half-precision numbers.
    """
    block = min(triton.next_power_of_2(columns), MAX_BLOCK)
    return block, min(max(block // 512, 1), 8)
