"""The settings `distributed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastsemi.common.errors import UserError

Strategy = Literal["ddp", "fsdp"]
StrategyName = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, started by torchrun."""

    strategy: StrategyName = "auto"
    """ddp (every process holds the networks), fsdp (they share them out), or auto: ddp where it fits."""
    timeout_s: float = 1800.0
    """Seconds after which a process that waits for another one gives up."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if not 0 < self.timeout_s < 1e6:
            raise UserError(
                f"distributed.timeout_s is {self.timeout_s}; it must be positive and below a million"
            )
