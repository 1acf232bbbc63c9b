"""From gradients to weights: unscale, clip, check, step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsemi.errors import UserError
from fastsemi.precision import Precision
from fastsemi.sharding import whole

_LEAST_SCALE = 2.0**-14  # of the loss: it starts at 2**16 and is halved at each step that it refuses


class Updater:
    """One optimizer step that never lets a NaN or Inf into the weights.

    On a GPU the check stays on the device: the fused optimizer skips the step, and `check` raises when the
    host reads metrics anyway. An optimizer that cannot skip on the device is checked before each step. With
    fp16 a skipped step is part of loss scaling and no error.

    Args:
        model: What is trained.
        optimizer: What updates the weights.
        precision: Number format.
        clip: Largest gradient norm; None for no clipping.

    Attributes:
        skipped: [] bool on the device, whether loss scaling refused the last step, as it does while it looks
            for its scale; None without loss scaling.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, clip: float | None
    ):
        self.optimizer = optimizer
        self.scaler = precision.scaler()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._clip = float("inf") if clip is None else clip
        # What PyTorch's own GradScaler goes by: an optimizer that looks at `found_inf` in its kernel.
        skips = getattr(optimizer, "_step_supports_amp_scaling", False)
        self._host_checks = precision.device.type == "cpu" or not skips
        self.skipped: Tensor | None = None
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
            UserError: A gradient is not finite, on a CPU or with an optimizer that cannot skip a step on the
                device; elsewhere `check` raises it.
        """
        self.scaler.unscale_(self.optimizer)
        norm = whole(nn.utils.clip_grad_norm_(self._parameters, self._clip))
        if self.scaler.is_enabled():
            self.skipped = ~norm.isfinite()
        else:
            bad = ~norm.isfinite()
            self._bad_step = torch.where(bad & (self._bad_step < 0), step, self._bad_step)
            if self._host_checks:
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
            UserError: Names the step, whose update was refused; or loss scaling refuses every step.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE:
            raise UserError(
                "the gradient is not finite in fp16 at any loss scale; lower base_lr, set clip_grad or use "
                "--precision bf16 or fp32, then run the same command to resume"
            )
        bad = int(self._bad_step)
        if bad >= 0:
            raise UserError(
                f"the gradient is not finite at step {bad}, whose update was refused; lower base_lr, set "
                "clip_grad or use --precision fp32, then run the same command to resume"
            )
