"""Batch norm's running statistics, the same however a step is split."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastsemi.parallel import processes


class RunningStatistics:
    """Moves the running mean and variance once a step, by the average over its micro-batches.

    PyTorch moves them in each forward pass, so that accumulation would move them more often than several
    processes do, and each process would have its own.

    Args:
        network: What is trained; without batch norm nothing happens.
    """

    def __init__(self, network: nn.Module):
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        buffers = [b for norm in norms for b in norm.buffers()]
        self._moved = [b for b in buffers if b.is_floating_point()]
        self._counts = [b for b in buffers if not b.is_floating_point()]
        self._before: list[Tensor] = []
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def start_step(self) -> None:
        """Before the first micro-batch of a step."""
        self._before = [b.clone() for b in (*self._moved, *self._counts)]
        self._sums = [torch.zeros_like(b) for b in self._moved]

    @torch.no_grad()
    def after_micro_batch(self) -> None:
        """Note what a micro-batch would make of them, and take it back."""
        if self._moved:
            torch._foreach_add_(self._sums, self._moved)
            torch._foreach_copy_([*self._moved, *self._counts], self._before)

    @torch.no_grad()
    def end_step(self, micro_batches: int) -> None:
        """After the last micro-batch.

        Args:
            micro_batches: Of the step, in all processes together.
        """
        if not self._moved:
            return
        flat = processes.add_up(torch.cat([s.flatten() for s in self._sums])) / micro_batches
        parts = flat.split([b.numel() for b in self._moved])
        torch._foreach_copy_(self._moved, [p.view_as(b) for p, b in zip(parts, self._moved, strict=True)])
        for count in self._counts:
            count += 1
