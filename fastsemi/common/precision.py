"""Device and number format of the networks."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import torch

from fastsemi.common.errors import UserError
from fastsemi.common.settings import PrecisionName

Capability = tuple[int, int]

_log = logging.getLogger(__name__)
_AMPERE: Capability = (8, 0)  # the first that multiplies bf16 and TF32


def select_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:N`; a GPU given by its number becomes the current one.

    Raises:
        UserError: Another device, or a CUDA device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unknown = UserError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown from None
    if device.type not in ("cpu", "cuda"):
        raise unknown
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name} is not there ({torch.cuda.device_count()} CUDA devices found); use --device auto"
        )
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # where Triton launches kernels and events are recorded
    return device


def multiplies_bf16() -> bool:
    """Whether oneDNN has matrix products in bf16 on this CPU; without them PyTorch's own are very slow."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _warn_of_slow_bf16() -> None:
    _log.warning(
        "precision bf16: PyTorch has no quick products in bfloat16 on this CPU (they need AVX-512 on x86), "
        "some take ninety times as long as in fp32; use --precision auto or fp32"
    )


def choose_dtype(name: PrecisionName, capability: Capability | None, cpu_bf16: bool) -> torch.dtype:
    """The type that networks run in.

    Args:
        name: As configured. `auto` is bf16 where the hardware multiplies it natively, fp16 on older GPUs
            (Volta, Turing), else fp32.
        capability: Compute capability of the GPU; None for a CPU.
        cpu_bf16: Whether the CPU multiplies bf16 natively.

    Raises:
        UserError: fp16 on a CPU.
    """
    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name == "fp16" and capability is None:
        raise UserError("precision fp16 needs a CUDA GPU; use bf16 or fp32 on a CPU")
    if name != "auto":
        return dtypes[name]
    if capability is None:
        return torch.bfloat16 if cpu_bf16 else torch.float32
    return torch.bfloat16 if capability >= _AMPERE else torch.float16


@dataclass(frozen=True)
class Precision:
    """Autocast type of forward and backward passes; weights and optimizer stay fp32."""

    device: torch.device
    dtype: torch.dtype
    tf32: bool = False
    """Whether fp32 products and convolutions may round their factors to TF32's 10 bits of mantissa."""

    @classmethod
    def select(cls, name: PrecisionName, device: torch.device) -> Precision:
        """Resolve a name on a device: `choose_dtype`, and TF32 where the GPU has it, else that is plain fp32.

        A warning says once where bf16 is slow.

        Raises:
            UserError: fp16 on a CPU.
        """
        if device.type == "cuda":
            capability = torch.cuda.get_device_capability(device)
            return cls(
                device, choose_dtype(name, capability, False), name == "tf32" and capability >= _AMPERE
            )
        if name == "bf16" and not multiplies_bf16():
            _warn_of_slow_bf16()
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return cls(device, choose_dtype(name, None, native))

    def apply(self) -> None:
        """Tell PyTorch how exact fp32 is to be on a GPU: by default its convolutions take TF32, products not.

        The two switches that PyTorch keeps consistent with each other and with the newer `fp32_precision`;
        torch.compile refuses a mixture. A CPU is left alone, and half precision, which never comes to them.
        """
        if self.device.type == "cuda" and self.dtype == torch.float32:
            torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = self.tf32

    @property
    def label(self) -> str:
        """What results depend on: the type, or tf32."""
        return "tf32" if self.tf32 else str(self.dtype)

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
