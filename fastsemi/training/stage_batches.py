"""The batches that a stage's steps ask for, read ahead by one loader for each of its roles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from fastsemi.loaders.data import ImageSet
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.prefetch import Loader
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.training.deal import plans

Load = Callable[[ImageSet, Iterable[PlannedBatch]], AbstractContextManager[Loader]]


class StageBatches(Iterator[dict[str, DeviceBatch]]):
    """Batches on the device by role, one for each micro batch of each step."""

    def __init__(self, loaders: dict[str, Loader], views: Views):
        self._loaders, self._views = loaders, views
        self._loaded = zip(*loaders.values(), strict=True)

    def __next__(self) -> dict[str, DeviceBatch]:
        loaded = next(self._loaded)
        return {name: self._views.to_device(batch) for name, batch in zip(self._loaders, loaded, strict=True)}

    @property
    def waited(self) -> float:
        """Seconds that were spent waiting for the loaders."""
        return sum(loader.waited for loader in self._loaders.values())


@contextmanager
def stage_batches(stage: Stage, views: Views, load: Load, steps: range) -> Iterator[StageBatches]:
    """What some steps of a stage see.

    Args:
        stage: Whose roles.
        views: Brings batches to the device.
        load: `Data.load`, or what is called like it.
        steps: Numbers of the steps.
    """
    with ExitStack() as stack:
        loaders = {
            name: stack.enter_context(
                load(role.images, plans(role.stream, steps, stage.config.micro_batches))
            )
            for name, role in stage.roles.items()
        }
        try:
            yield StageBatches(loaders, views)
        finally:
            if any(loader.gave_up for loader in loaders.values()):  # the others may read the same place
                for loader in loaders.values():
                    loader.give_up()
