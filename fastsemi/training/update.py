"""From gradients to weights: unscale, clip, check, step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.parallel.shards import local, whole

_LEAST_SCALE = 2.0**-14  # of the loss: it starts at 2**16 and is halved at each step that it refuses


class NotFiniteError(UserError):
    """A loss or gradient that is not finite; the update was refused.

    Args:
        message: What, where and the cure.
        step: Of the stage.
        part: Which call of `Updater.backward` of that step had the first loss that was not finite; None where
            all losses of this process were finite.
    """

    def __init__(self, message: str, step: int, part: int | None):
        self.step, self.part = step, part
        super().__init__(message)


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
        replayed: Whether `backward` replays CUDA graphs several times a step.

    Attributes:
        skipped: [] bool on the device, whether loss scaling refused the last step, as it does while it looks
            for its scale; None without loss scaling.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        clip: float | None,
        *,
        replayed: bool = False,
    ):
        self.optimizer, self._replayed, self._moved = optimizer, replayed, False
        self.scaler = precision.scaler()
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._clip = clip
        # What PyTorch's own GradScaler goes by: an optimizer that looks at `found_inf` in its kernel.
        skips = getattr(optimizer, "_step_supports_amp_scaling", False)
        self._host_checks = precision.device.type == "cpu" or not skips
        self.skipped: Tensor | None = None
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=precision.device)
        self._culprit = self._bad_step.clone()
        self._losses: list[tuple[str, int, Tensor]] = []  # since the last step, each with its micro-batch
        self._suspects: list[tuple[str, int | None]] = []  # what `_culprit` counts in
        self._parts = 0  # micro-batches since the last step

    def backward(self, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """Add the gradients of a micro-batch.

        Args:
            loss: What to differentiate, a scalar.
            parts: Losses that it consists of, scalars by name: an error names the one that is not finite.
        """
        if not self.scaler.is_enabled():
            self._losses += [
                (k, self._parts, v.clone() if self._replayed else v) for k, v in (parts or {}).items()
            ]
            self._parts += 1
        self.scaler.scale(loss).backward()
        if self._replayed and not self._moved:
            self._move_gradients()

    def _move_gradients(self) -> None:
        """Out of the memory of a graph, which its next replay overwrites; later gradients are added to these.

        PyTorch makes the first gradient of a parameter its `grad` without a copy.
        """
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()
        self._moved = True

    def step(self, step: int) -> Tensor:
        """Update the weights and clear the gradients.

        Args:
            step: Number of this step, for the error.

        Returns:
            Norm of all gradients before clipping, a scalar on the device.

        Raises:
            NotFiniteError: A gradient is not finite, on a CPU or with an optimizer that cannot skip a step on
                the device; elsewhere `check` raises it.
        """
        self.scaler.unscale_(self.optimizer)
        named = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        norms = torch.stack(torch._foreach_norm(list(named.values())))  # [P]
        total = torch.linalg.vector_norm(norms)
        norm = whole(total)
        if self.scaler.is_enabled():
            self.skipped = ~norm.isfinite()
        else:
            self._remember(step, norm, list(named), local(norms))
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters.values(), self._clip, total)
        if not self.scaler.is_enabled():
            if self._host_checks:
                self.check()
            else:
                self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()  # to None; Apex takes no argument
        self._moved = False
        return norm

    def _remember(self, step: int, norm: Tensor, names: list[str], norms: Tensor) -> None:
        """Note on the device the first step whose gradient is not finite, and the first suspect that is not.

        Suspects are the losses, then the gradient of each parameter in the order of the network, then the
        norm of all: what is finite may add up to what is not, and another process may hold the bad shard.
        """
        losses = [value.detach().float() for _, _, value in self._losses]
        suspects = torch.cat([*(loss[None] for loss in losses), norms, norm[None]])
        self._suspects = [(name, part) for name, part, _ in self._losses]
        self._suspects += [(f"the gradient of {name}", None) for name in names]
        self._suspects.append(("the gradient's norm", None))
        self._losses.clear()
        self._parts = 0
        first = ~norm.isfinite() & (self._bad_step < 0)
        self._bad_step = torch.where(first, step, self._bad_step)
        self._culprit = torch.where(first, (~suspects.isfinite()).int().argmax(), self._culprit)

    def check(self) -> None:
        """Raise if a step so far had a gradient that is not finite. Waits for the device.

        Raises:
            NotFiniteError: Names the step, whose update was refused, and what was not finite.
            UserError: Loss scaling refuses every step.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE:
            raise UserError(
                "the gradient is not finite in fp16 at any loss scale; lower base_lr, set clip_grad or use "
                "--precision bf16 or fp32, then run the same command to resume"
            )
        bad = int(self._bad_step)
        if bad >= 0:
            culprit, part = self._suspects[int(self._culprit)]
            raise NotFiniteError(
                f"{culprit} is not finite at step {bad}, whose update was refused; "
                "lower base_lr, set clip_grad or use --precision fp32, then run the same command to resume",
                bad,
                part,
            )
