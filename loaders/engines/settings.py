"""The engines by name, and the settings `loader.dali`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fastsemi.common.errors import UserError

EngineName = Literal["auto", "native", "dali", "ffcv", "thread_pool", "reference"]
DEVICE_PADDING = 16 * 2**20  # bytes that a pipeline of DALI sets aside on a GPU for each thread, its default
Decode = Literal["auto", "window", "whole"]


@dataclass(frozen=True)
class DaliOptions:
    """Options of the `dali` engine. They change the speed, not the images."""

    decode: Decode = "auto"
    """Decode the `window` around both views, or the `whole` image. `auto` is `window` on the CPU, `whole` on
    a GPU, where windows end the process with some versions of NVIDIA's decoder: there `window` is tried in a
    process of its own first."""
    hw_load: float = 0.35
    """Fraction of the JPEGs that go to the GPU's JPEG engine, where it has one: less beside more threads."""
    depth: int = 2
    """Batches that DALI works on at the same time."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.decode not in get_args(Decode):
            raise UserError(
                f"loader.dali.decode {self.decode!r} is unknown; use {', '.join(get_args(Decode))}"
            )
        if not 0 <= self.hw_load <= 1:
            raise UserError(f"loader.dali.hw_load is {self.hw_load}; it must lie in [0, 1]")
        if self.depth < 1:
            raise UserError(f"loader.dali.depth is {self.depth}; use at least 1")
