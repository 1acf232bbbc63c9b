"""The settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastsemi.common.errors import UserError

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
OptimizerBackend = Literal["fused", "foreach", "apex"]


@dataclass(frozen=True)
class CompileConfig:
    """torch.compile of student and teacher."""

    enabled: bool = False
    """Compile the networks. The first steps then take a minute or more."""
    cuda_graphs: bool = False
    """Replay the compiled networks as CUDA graphs, which saves launches where batches are small."""

    def __post_init__(self) -> None:
        """Refuse graphs of what is not compiled."""
        if self.cuda_graphs and not self.enabled:
            raise UserError("compile.cuda_graphs replays compiled networks; set compile.enabled to true too")
