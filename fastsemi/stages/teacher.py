"""The teacher: an exponential moving average of the student (eq. 1)."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastsemi.models.token_merging import merging, prepare_merging
from fastsemi.parallel import processes
from fastsemi.parallel.shards import local

TeacherDtype = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHUNK = 32  # tensors that are weighted at a time, which bounds the memory that it takes


class EMATeacher(nn.Module):
    """theta' <- m theta' + (1 - m) theta, after each optimizer step.

    Momentum 0 makes teacher and student the same network, which is FixMatch. Floating-point buffers
    (batch-norm statistics) are averaged too, integer ones copied.

    Args:
        student: The network to follow; the teacher starts as its copy.
        momentum: m in [0, 1).
        dtype: Of the forward pass. With bf16 or fp16 it runs on a copy of the weights in that type; the
            average itself stays in the student's type, where (1 - m) of a weight is not lost to rounding.
        merge_tokens: Tokens that each block merges in `forward`, of a ViT; the average by itself merges none.

    Attributes:
        model: The average.
        runner: What `forward` calls: the average or its copy in half precision.

    Raises:
        UserError: Tokens are to be merged of a network that is no plain ViT.
    """

    def __init__(
        self, student: nn.Module, momentum: float, dtype: TeacherDtype = "fp32", merge_tokens: int = 0
    ):
        super().__init__()
        self.momentum, self._dtype = momentum, _DTYPES[dtype]
        self.model = copy.deepcopy(student, _shared(student)).eval().requires_grad_(False)
        self._follows = [p.requires_grad for p in student.parameters()]
        self.runner = self.model if dtype == "fp32" else copy.deepcopy(self.model).to(self._dtype)
        self._merges = merge_tokens > 0
        if self._merges:
            prepare_merging(self.runner, merge_tokens)

    def networks(self) -> list[nn.Module]:
        """The average and, where there is one, its copy."""
        return list(dict.fromkeys([self.model, self.runner]))

    def train(self, mode: bool = True) -> EMATeacher:
        """The teacher is always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, C], without gradient."""
        with merging(self.runner) if self._merges else nullcontext():
            if self.runner is self.model:
                return self.model(images)
            with torch.autocast(images.device.type, enabled=False):  # all of it is in one type already
                return self.runner(images.to(self._dtype))

    @torch.no_grad()
    def update(self, student: nn.Module, skipped: Tensor | None = None) -> None:
        """One step of the average, in one launch per dtype and device.

        Args:
            student: What is followed.
            skipped: [] bool, whether the optimizer refused the step; the average then stays as it is, which
                the host need not know.
        """
        ours, theirs = self._moving(self.model), self._moving(student)
        mean = [(a, b.to(a.dtype)) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
        averages, targets = [a for a, _ in mean], [b for _, b in mean]
        if skipped is None:
            torch._foreach_lerp_(averages, targets, 1 - self.momentum)
        else:
            _foreach_weigh_(averages, targets, torch.where(skipped, 1.0, self.momentum))
        for a, b in zip(ours, theirs, strict=True):
            if not a.is_floating_point():
                a.copy_(b if skipped is None else torch.where(skipped, a, b))
        self.refresh()

    def _moving(self, network: nn.Module) -> list[Tensor]:
        """What changes in training: parameters that the student trains, and buffers; of shards one's own."""
        trained = (p for p, follows in zip(network.parameters(), self._follows, strict=True) if follows)
        return [local(t) for t in (*trained, *network.buffers())]

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copy in half precision up to date with the average."""
        if self.runner is not self.model:
            torch._foreach_copy_(_tensors(self.runner), _tensors(self.model))


def _shared(student: nn.Module) -> dict[int, Any]:
    """What a copy need not copy: parameters that are never trained; sharded networks keep their own."""
    if processes.world() > 1:
        return {}
    return {id(p): p for p in student.parameters() if not p.requires_grad}


def _tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers; of sharded ones what this process holds."""
    return [local(t) for t in (*network.parameters(), *network.buffers())]


def _foreach_weigh_(averages: list[Tensor], targets: list[Tensor], momentum: Tensor) -> None:
    """a <- m a + (1 - m) b with m on the device, exact for m = 1 and m = 0."""
    for start in range(0, len(averages), _CHUNK):
        part = averages[start : start + _CHUNK]
        shares = torch._foreach_mul(targets[start : start + _CHUNK], 1 - momentum)
        torch._foreach_mul_(part, momentum)
        torch._foreach_add_(part, shares)
