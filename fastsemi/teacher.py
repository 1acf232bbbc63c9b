"""The teacher: an exponential moving average of the student (eq. 1)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMATeacher(nn.Module):
    """theta' <- m theta' + (1 - m) theta, after each optimizer step.

    Momentum 0 makes teacher and student the same network, which is FixMatch. Floating-point buffers
    (batch-norm statistics) are averaged too, integer ones copied.

    Args:
        student: The network to follow; the teacher starts as its copy.
        momentum: m in [0, 1).
    """

    def __init__(self, student: nn.Module, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.model = copy.deepcopy(student).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EMATeacher:
        """The teacher is always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, C], without gradient."""
        return self.model(images)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the average, in one launch per dtype and device."""
        ours = [*self.model.parameters(), *self.model.buffers()]
        theirs = [*student.parameters(), *student.buffers()]
        mean = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in mean], [b.to(a.dtype) for a, b in mean], 1 - self.momentum)
        for a, b in zip(ours, theirs, strict=True):
            if not a.is_floating_point():
                a.copy_(b)
