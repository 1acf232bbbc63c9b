"""What the stages of a run share: configuration, folder, device, number format, data, inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from fastsemi.common.allocator import keep_memory
from fastsemi.common.precision import Precision, select_device
from fastsemi.kernels.dispatch import select as select_kernels
from fastsemi.loaders.data import Data
from fastsemi.parallel import processes
from fastsemi.probing.probe import Prober
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.stages.inputs import Views


class RunContext:
    """What building and training the stages of a configuration needs; close it at the end.

    Args:
        config: The run.
        say: Called with what the user should know, a line each.

    Raises:
        UserError: A device or a number format that is not there.
    """

    def __init__(self, config: Config, say: Callable[[str], None] = lambda text: None):
        self.config, self.say = config, say
        self.folder = RunFolder(config.output)
        self.device = select_device(processes.local_device(config.device))
        if self.device.type == "cpu":
            keep_memory()
        self.precision = Precision.select(config.precision, self.device)
        self.precision.apply()
        self.data = Data(config.data, config.loader, device=self.device)
        kernels = select_kernels(config.kernels, self.device)
        self.views = Views(config.data, self.device, kernels, self.precision.dtype)

    @cached_property
    def prober(self) -> Prober:
        """Simple classifiers and label spreading on the run's data."""
        return Prober(self.data, self.views, self.precision, batch=self.config.eval_batch)

    def close(self) -> None:
        """Stop all engines."""
        self.data.close()
