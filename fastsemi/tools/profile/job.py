"""The real job, run for some steps by the trainer's own loop, and the same loop without a loader."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from fastsemi.common.progress import Progress
from fastsemi.common.spans import Recorder, recording
from fastsemi.loaders.batches import Batches
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.plan.types import LoadedBatch, PlannedBatch
from fastsemi.loaders.prefetch import Loader
from fastsemi.run.build import build_stage, build_trainer
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext
from fastsemi.run.folder import RunFolder
from fastsemi.run.order import earlier
from fastsemi.run.trial import TrialFolder, endless
from fastsemi.stages.base import Role
from fastsemi.stages.names import StageName
from fastsemi.training.metrics import MetricLog
from fastsemi.training.stage_batches import Load

_CACHED_STEPS = 2  # batches that the step alone goes through in turn


@dataclass(frozen=True)
class Timing:
    """Some optimizer steps; all seconds are means per step of one round of them."""

    steps: int
    """In all rounds."""
    wall: float
    """Of the clock, synchronised at both ends."""
    spans: Mapping[str, float]
    """Of the step's timeline, by the innermost span."""
    threads: Mapping[str, float]
    """Of loader threads, summed over these: plan, read, decode, resize as far as the engine tells."""


class _Cycle(Loader):
    """Batches in memory, again and again; nobody waits for them."""

    waited = 0.0

    def __init__(self, batches: list[LoadedBatch]):
        self._batches = itertools.cycle(batches)

    def __next__(self) -> LoadedBatch:
        return next(self._batches)

    def close(self) -> None:
        """There is nothing to stop."""


class _CachedBatches:
    """Gives the trainer batches from memory in place of those that `Batches` loads.

    Args:
        batches: Loads them, once.
        roles: The stage's streams; a set of images may serve several.
        step: Where to begin.
    """

    def __init__(self, batches: Batches, roles: Mapping[str, Role], step: int):
        kept = []
        for role in roles.values():
            with batches.load(role.images, planned(role, range(step, step + _CACHED_STEPS))) as loader:
                kept.append([replace(batch, images=_kept(batch.images)) for batch in loader])
        self._next = itertools.cycle(kept)

    @contextmanager
    def load(
        self, images: ImageSet, plans: Iterable[PlannedBatch], *, image_size: int | None = None
    ) -> Iterator[_Cycle]:
        """The trainer asks for the roles in their order; what it plans is not drawn."""
        yield _Cycle(next(self._next))


def _kept(images: torch.Tensor) -> torch.Tensor:
    """A copy that the loader does not use again, as fit for an asynchronous copy as the original."""
    return images.clone().pin_memory() if images.is_pinned() else images.clone()


def planned(role: Role, steps: Iterable[int]) -> Iterator[PlannedBatch]:
    """The micro-batches of global batches, given by their numbers."""
    for step in steps:
        for micro in range(role.stream.micro_batches):
            yield role.stream.plan(step, micro)


class ProfiledStage:
    """A stage of a configuration, ready to run. Nothing is read from or written to its own checkpoints.

    Args:
        config: The run. The result of the stage before is taken from its directory where it is there;
            otherwise the network is random.
        name: The stage.
        folder: A temporary folder for logs.

    Attributes:
        untrained: Whether the classifier is random. In the semi stage no pseudo label would be confident
            then, so all are accepted: the step is the dearest that it can be.
    """

    def __init__(self, config: Config, name: StageName, folder: Path):
        before = earlier(config, name)[-1:]
        fresh = bool(before) and not RunFolder(config.output).result(before[0]).exists()
        classifier = (before == ["finetune"] and not fresh) or (
            not before and config.model.weights is not None and config.model.keep_head
        )
        self.untrained = not classifier
        self.run = RunContext(endless(config, name, accept_all=self.untrained))
        logs = RunFolder(folder)
        self.run.folder = TrialFolder(self.run.folder, logs)
        self.stage = build_stage(self.run, name, fresh=fresh)
        self._log = MetricLog(logs.metrics, logs.board)
        progress = Progress(Console(quiet=True))
        self.trainer = build_trainer(
            self.run, self.stage, name, self._log, progress, checkpoints=logs.checkpoints
        )
        self.roles, self.batches = self.stage.roles, self.run.data.batches
        self.images = self.stage.main_stream.batch  # per step, the figure that images/s refer to
        self._cache: _CachedBatches | None = None

    def close(self) -> None:
        """Stop engines and close logs."""
        self._log.close()
        self.run.close()

    @property
    def engine(self) -> Engine:
        """The engine of the main stream."""
        return self.batches.engine(next(iter(self.roles.values())).images)

    @property
    def on_gpu(self) -> bool:
        """Whether the step runs on a CUDA device."""
        return self.run.device.type == "cuda"

    def measure(self, steps: int, warmup: int) -> Timing:
        """Run the job as it is for `warmup` and then `steps` steps."""
        return self._run(self.batches.load, steps, warmup)

    def measure_step(self, steps: int, warmup: int) -> Timing:
        """The same loop with batches that lie in memory, so that no loader runs beside it."""
        return self._run(self._cached().load, steps, warmup)

    def metrics(self) -> dict[str, float]:
        """The stage's metrics since they were last read."""
        return self.trainer.metrics.read()

    def trace(self, path: Path, steps: int) -> None:
        """Write a Chrome trace of some steps of the job, spans included."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_gpu else [])]
        path.parent.mkdir(parents=True, exist_ok=True)
        with profile(activities=activities) as profiler:
            self._run(self.batches.load, steps, 0, annotate=True)
        profiler.export_chrome_trace(str(path))

    def _cached(self) -> _CachedBatches:
        if self._cache is None:
            self._cache = _CachedBatches(self.batches, self.roles, self.trainer.step)
        return self._cache

    def _run(self, load: Load, steps: int, warmup: int, *, annotate: bool = False) -> Timing:
        engines = {id(e): e for e in (self.batches.engine(role.images) for role in self.roles.values())}
        counters = [engine.stage_seconds for engine in engines.values()]
        before: list[dict[str, float]] = []
        recorder = Recorder(
            self.run.device,
            steps,
            warmup,
            annotate=annotate,
            on_begin=lambda: before.extend(counter() for counter in counters),
        )
        with recording(recorder):
            self.trainer.run(load)
        self.trainer.step += 1  # the one that the recorder left
        threads = dict(recorder.per_step_elsewhere())
        for counter, then in zip(counters, before, strict=True):
            for name, seconds in counter().items():
                threads[name] = threads.get(name, 0.0) + (seconds - then[name]) / steps
        return Timing(steps, recorder.seconds / steps, recorder.per_step(), threads)


def load_steps(
    batches: Batches, roles: Mapping[str, Role], steps: Callable[[], Iterable[int]]
) -> Generator[None, None, None]:
    """Load global batches of all roles at once, as training does; yields after each.

    Args:
        batches: Loads them.
        roles: What to load.
        steps: Called for each role: the numbers of the global batches, at most endlessly many.
    """
    with ExitStack() as stack:
        loaders = [
            stack.enter_context(batches.load(role.images, planned(role, steps()))) for role in roles.values()
        ]
        for _ in steps():
            for loader, role in zip(loaders, roles.values(), strict=True):
                for _ in range(role.stream.micro_batches):
                    next(loader)
            yield
