"""The trainer's own update, one at a time."""

from __future__ import annotations

from contextlib import ExitStack

from fastsemi.stages.inputs import DeviceBatch
from fastsemi.training.trainer import Trainer


class Stepping:
    """Steps of a trainer from where it is, on the batches of its own data; close it at the end.

    Args:
        trainer: Whose steps.
    """

    def __init__(self, trainer: Trainer):
        self._trainer, self._stack = trainer, ExitStack()
        self._batches = self._stack.enter_context(trainer.batches(trainer.data.load))

    def step(self) -> None:
        """One update."""
        self._trainer.update(self._batches)
        self._trainer.step += 1

    def load(self) -> None:
        """The batches of one update, with nobody training."""
        for _ in range(self._trainer.stage.config.micro_batches):
            self.next_batch()
        self._trainer.step += 1

    def next_batch(self) -> dict[str, DeviceBatch]:
        """The next micro-batch of every role."""
        return next(self._batches)

    @property
    def waited(self) -> float:
        """Seconds that the steps so far have waited for their loaders."""
        return self._batches.waited

    def close(self) -> None:
        """Close the loaders."""
        self._stack.close()
