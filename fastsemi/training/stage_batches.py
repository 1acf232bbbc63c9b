"""The batches that a stage's steps ask for, read ahead by one loader for each of its roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

from fastsemi.loaders.data import ImageSet
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.prefetch import Loader
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.training.deal import plans


class Load(Protocol):
    """`Data.load`, or what is called like it."""

    def __call__(
        self, images: ImageSet, plans: Iterable[PlannedBatch], *, image_size: int | None = None
    ) -> AbstractContextManager[Loader]:
        """Load planned batches of views of `image_size` pixels, by default `data.image_size`."""
        ...


class StageBatches(Iterator[dict[str, DeviceBatch]]):
    """Batches on the device by role, one for each micro batch of each step.

    Engines fill views of one size, so that the loaders are opened anew where the size changes: nothing is
    read ahead over that step.

    Args:
        stage: Whose roles.
        views: Brings batches to the device.
        load: Opens a loader.
        steps: Numbers of the steps.
    """

    def __init__(self, stage: Stage, views: Views, load: Load, steps: range):
        self._stage, self._views, self._load = stage, views, load
        self._spans = stage.main_stream.spans(steps)
        self._open, self._loaders, self._before = ExitStack(), dict[str, Loader](), 0.0
        self._loaded: Iterator = iter(())
        self._open_next()

    def _open_next(self) -> bool:
        """Open the loaders of the next steps of one image size; False after the last ones."""
        span = next(self._spans, None)
        if span is None:
            return False
        self.close()
        size, steps = span
        parts = self._stage.config.micro_batches
        with ExitStack() as opened:
            for name, role in self._stage.roles.items():
                loader = self._load(role.images, plans(role.stream, steps, parts), image_size=size)
                self._loaders[name] = opened.enter_context(loader)
            self._open = opened.pop_all()
        self._loaded = zip(*self._loaders.values(), strict=True)
        return True

    def __next__(self) -> dict[str, DeviceBatch]:
        loaded = next(self._loaded, None)
        if loaded is None:
            if not self._open_next():
                raise StopIteration
            loaded = next(self._loaded)
        return {name: self._views.to_device(batch) for name, batch in zip(self._loaders, loaded, strict=True)}

    @property
    def waited(self) -> float:
        """Seconds that were spent waiting for the loaders."""
        return self._before + sum(loader.waited for loader in self._loaders.values())

    def close(self) -> None:
        """Close the loaders."""
        self._before = self.waited
        if any(loader.gave_up for loader in self._loaders.values()):  # the others may read the same place
            for loader in self._loaders.values():
                loader.give_up()
        self._loaders = {}
        self._open.close()


@contextmanager
def stage_batches(stage: Stage, views: Views, load: Load, steps: range) -> Iterator[StageBatches]:
    """What some steps of a stage see.

    Args:
        stage: Whose roles.
        views: Brings batches to the device.
        load: `Data.load`, or what is called like it.
        steps: Numbers of the steps.
    """
    batches = StageBatches(stage, views, load, steps)
    try:
        yield batches
    finally:
        batches.close()
