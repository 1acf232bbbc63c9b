"""The trainer's own update, one at a time: the one place of the benchmarks that reaches into the trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.prefetch import Loader
from fastsemi.stages.inputs import DeviceBatch
from fastsemi.training.trainer import Trainer


class Stepping:
    """Steps of a trainer from where it is, on the batches of its own data; close it at the end.

    Args:
        trainer: Whose steps.
    """

    def __init__(self, trainer: Trainer):
        self._trainer, self._stack = trainer, ExitStack()
        self._loaders: list[Loader] = []
        self._batches: Iterator[dict[str, DeviceBatch]]
        self._batches = self._stack.enter_context(trainer._batches(self._load))

    @contextmanager
    def _load(self, images: ImageSet, plans: Iterable[PlannedBatch]) -> Iterator[Loader]:
        with self._trainer.data.load(images, plans) as loader:
            self._loaders.append(loader)
            yield loader

    def step(self) -> None:
        """One update."""
        self._trainer._update(self._batches)
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
        return sum(loader.waited for loader in self._loaders)

    def close(self) -> None:
        """Close the loaders."""
        self._stack.close()
