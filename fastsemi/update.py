"""From gradients to weights: unscale, clip, check, step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsemi.errors import UserError
from fastsemi.precision import Precision


class Updater:
    """One optimizer step that never lets a NaN or Inf into the weights.

    On a GPU the check stays on the device: the fused optimizer skips the step, and `check` raises when the
    host reads metrics anyway. With fp16 a skipped step is part of loss scaling and no error.

    Args:
        model: What is trained.
        optimizer: A fused optimizer.
        precision: Number format.
        clip: Largest gradient norm; None for no clipping.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, clip: float | None
    ):
        self.optimizer = optimizer
        self.scaler = precision.scaler()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._clip = float("inf") if clip is None else clip
        self._on_cpu = precision.device.type == "cpu"
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=precision.device)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch."""
        self.scaler.scale(loss).backward()

    def step(self, step: int) -> Tensor:
        """Update the weights and clear the gradients.

        Args:
            step: Number of this step, for the error.

        Returns:
            Norm of all gradients before clipping, a scalar on the device.

        Raises:
            UserError: On a CPU, when a gradient is not finite; elsewhere `check` raises it.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
        if not self.scaler.is_enabled():
            bad = ~norm.isfinite()
            self._bad_step = torch.where(bad & (self._bad_step < 0), step, self._bad_step)
            if self._on_cpu:
                self.check()
            else:
                self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def check(self) -> None:
        """Raise if a step so far had a gradient that is not finite. Waits for the device.

        Raises:
            UserError: Names the step; the weights are those before it.
        """
        bad = int(self._bad_step)
        if bad >= 0:
            raise UserError(
                f"the gradient is not finite at step {bad}, whose update was refused; lower base_lr, set "
                "clip_grad or use --precision fp32, then run the same command to resume"
            )
