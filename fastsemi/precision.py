"""Device and number format of the networks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from fastsemi.errors import UserError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]


def select_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: A CUDA device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name} is not there ({torch.cuda.device_count()} CUDA devices found); use --device auto"
        )
    return device


@dataclass(frozen=True)
class Precision:
    """Autocast type of forward and backward passes; weights and optimizer stay fp32."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def select(cls, name: PrecisionName, device: torch.device) -> Precision:
        """Resolve `auto`: bf16 where the hardware multiplies it natively, fp16 on older GPUs, else fp32."""
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        if name != "auto":
            if name == "fp16" and device.type == "cpu":
                raise UserError("precision fp16 needs a CUDA GPU; use bf16 or fp32 on a CPU")
            return cls(device, dtypes[name])
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
            return cls(device, torch.bfloat16 if native else torch.float16)
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return cls(device, torch.bfloat16 if native else torch.float32)

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which matrix products run in `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def fused_attention(self) -> bool:
        """Whether PyTorch's fused attention is the faster one here: not for bf16 on a CPU (its backward)."""
        return not (self.device.type == "cpu" and self.dtype == torch.bfloat16)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaler, enabled for fp16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
