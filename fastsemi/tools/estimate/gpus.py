"""What GPUs can do at best, by their vendor's data sheets. Nothing here is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastsemi.common.errors import UserError
from fastsemi.common.precision import choose_dtype
from fastsemi.run.config import Config


@dataclass(frozen=True)
class Gpu:
    """A line of NVIDIA's data sheets; matrix rates are dense, with sums in fp32."""

    label: str
    """The device's name contains it, as PyTorch reports it."""
    memory_gb: int
    """Memory, taken as 10**9 bytes each, which is never more than the device has."""
    half_tflops: float
    """fp16 and bf16 matrix products, TFLOP/s."""
    fp32_tflops: float
    """fp32 without TF32, TFLOP/s."""
    bandwidth_gb_s: int
    """Of the memory, GB/s."""
    bf16: bool = True
    """Whether its matrix units take bf16."""

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.memory_gb * 10**9

    def dtype(self, config: Config) -> torch.dtype:
        """Autocast's type in training."""
        # As capabilities go by here: the last generation without bf16, and the first with it.
        return choose_dtype(config.precision, (8, 0) if self.bf16 else (7, 5), False)

    def precision(self, config: Config) -> str:
        """Name of the number format: float32, tf32, bfloat16 or float16."""
        if config.precision == "tf32" and self.bf16:
            return "tf32"  # came with bf16
        return str(self.dtype(config)).removeprefix("torch.")

    def peak(self, config: Config) -> float:
        """FLOP/s of matrix products; TF32 has half of bf16's on all of these."""
        tflops = {"float32": self.fp32_tflops, "tf32": self.half_tflops / 2}
        return 1e12 * tflops.get(self.precision(config), self.half_tflops)


GPUS = {
    "v100-16": Gpu("V100-SXM2-16GB", 16, 125, 15.7, 900, bf16=False),
    "v100": Gpu("V100-SXM2-32GB", 32, 125, 15.7, 900, bf16=False),
    "a100-40": Gpu("A100-SXM4-40GB", 40, 312, 19.5, 1555),
    "a100-80": Gpu("A100-SXM4-80GB", 80, 312, 19.5, 2039),
    "h100": Gpu("H100 80GB HBM3", 80, 989, 67, 3350),
    "h200": Gpu("H200", 141, 989, 67, 4800),
    "b200": Gpu("B200", 180, 2250, 75, 7700),
    "l4": Gpu("NVIDIA L4", 24, 121, 30.3, 300),
    "l40s": Gpu("L40S", 48, 362, 91.6, 864),
    "rtx4090": Gpu("RTX 4090", 24, 165, 82.6, 1008),
}


def find_gpu(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        UserError: It is not there.
    """
    if name not in GPUS:
        raise UserError(f"--gpu {name} is not in the table; use {', '.join(GPUS)}")
    return GPUS[name]
