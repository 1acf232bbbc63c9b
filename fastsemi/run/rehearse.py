"""A training step and an evaluation as on a GPU, without one: what they launch, move, wait for and hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastsemi.common.precision import Precision
from fastsemi.kernels.dispatch import Kernels
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.plan.types import LoadedBatch, PlannedBatch
from fastsemi.loaders.prefetch import Loader
from fastsemi.parallel.stop import Stop
from fastsemi.run.config import Config
from fastsemi.run.fake_stage import FakeStage
from fastsemi.run.pretended_cuda import DEVICE, PretendedCuda, pretended_cuda
from fastsemi.run.trace import Operation, Watch
from fastsemi.stages.names import StageName
from fastsemi.training.evaluate import Accuracy, evaluate
from fastsemi.training.settings import CompileConfig
from fastsemi.training.trainer import LoopConfig, Trainer
from fastsemi.training.watchdog import Watchdog


@dataclass(frozen=True)
class Rehearsed:
    """What was seen; places are a file and its function."""

    operations: list[Operation]
    """Launches in their order."""
    flops: int
    """Of matrix products, attention and convolutions."""
    state: int
    """Bytes of weights, optimizer and followers, which are there before and after."""
    peak: int
    """Bytes when most are needed, `state` and all, and of loaded batches those in use."""
    waits: Counter[str]
    """How often the host waits for the device, by place."""
    uploads: Counter[str]
    """How often something is copied to the device, by place."""
    mixed: Counter[str]
    """Operations on the device that take a tensor of the host's, by place."""


def rehearse_step(
    config: Config, name: StageName, data: Data, *, dtype: torch.dtype, kernels: Kernels
) -> Rehearsed:
    """One update of the trainer, as it is from the second step on.

    Args:
        config: The run; `micro_batches` of the stage are of one process.
        name: Which stage.
        data: Its images, of which none is loaded.
        dtype: Type of autocast.
        kernels: Implementation of the device operations; Triton's are noted and not computed.

    Raises:
        DataDependentOutputException: The host reads a number besides counts.
    """
    with _stage(config, name, data, dtype, kernels) as (cuda, fake):
        trainer = _trainer(config, fake, data)
        with trainer.batches(_load(cuda, fake)) as batches:
            _make_optimizer_state(trainer)
            held = {t.untyped_storage()._cdata: t for t in _state(fake, trainer)}
            with _watching(cuda) as watch:
                trainer.update(batches)
                trainer.step += 1
        return _rehearsed(watch, list(held.values()))


def rehearse_evaluation(
    config: Config, name: StageName, data: Data, images: ImageSet, *, dtype: torch.dtype, kernels: Kernels
) -> Rehearsed:
    """An evaluation of a stage's networks, with zeros in place of what the host reads.

    Args:
        config: The run.
        name: Which stage.
        data: Its images, of which none is loaded.
        images: What is evaluated on.
        dtype: Type of autocast.
        kernels: Implementation of the device operations.
    """
    with _stage(config, name, data, dtype, kernels) as (cuda, fake):
        shown: Any = SimpleNamespace(config=config.data, classes=data.classes, load=_load(cuda, fake))
        models, precision = fake.stage.eval_models(), Precision(DEVICE, dtype)
        held = [t for model in models.values() for t in (*model.parameters(), *model.buffers())]
        with _watching(cuda, read=0) as watch:
            found = evaluate(models, shown, fake.views, precision, batch=config.eval_batch, images=images)
        assert all(isinstance(accuracy, Accuracy) for accuracy in found.values())
        return _rehearsed(watch, held)


@contextmanager
def _stage(
    config: Config, name: StageName, data: Data, dtype: torch.dtype, kernels: Kernels
) -> Iterator[tuple[PretendedCuda, FakeStage]]:
    with pretended_cuda() as cuda, torch.random.fork_rng(devices=[]):
        options: dict[str, Any] = {"dtype": dtype, "fused_attention": True, "device": DEVICE}
        fake = FakeStage(config, name, data, kernels=kernels, **options)
        with fake.mode:
            yield cuda, fake


def _trainer(config: Config, fake: FakeStage, data: Data) -> Trainer:
    """The trainer of a fake stage; nothing is logged or saved."""
    nobody: Any = None
    loop = LoopConfig(config.seed, config.log_every, config.eval_batch, config.optimizer, CompileConfig())
    return Trainer(
        fake.stage,
        data,
        fake.views,
        Precision(DEVICE, fake.dtype),
        loop,
        Path("checkpoints"),
        nobody,
        nobody,
        fingerprint={},
        stop=Stop(),
        watchdog=Watchdog(0, Path("stuck")),
    )


class _Loader(Loader):
    """Batches as loaders leave them on the device."""

    waited = 0.0

    def __init__(self, cuda: PretendedCuda, fake: FakeStage, plans: Iterable[PlannedBatch]):
        self._cuda, self._fake, self._plans = cuda, fake, iter(plans)

    def __next__(self) -> LoadedBatch:
        batch = self._fake.loaded(next(self._plans), self._fake.image_size)
        if self._cuda.watch:
            self._cuda.watch.hold([batch.images, *(batch.tensors or {}).values()])
        return batch

    def close(self) -> None:
        """Nothing is open."""


def _load(cuda: PretendedCuda, fake: FakeStage) -> Any:
    """In place of `Data.load`."""

    def load(images: ImageSet, plans: Iterable[PlannedBatch], **_: Any) -> Loader:
        return _Loader(cuda, fake, plans)

    return load


@contextmanager
def _watching(cuda: PretendedCuda, *, read: int | None = None) -> Iterator[Watch]:
    with Watch(device=DEVICE, read=read) as cuda.watch:
        yield cuda.watch
    cuda.watch = None


def _make_optimizer_state(trainer: Trainer) -> None:
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def _state(fake: FakeStage, trainer: Trainer) -> Iterator[Tensor]:
    yield from (*fake.modules.parameters(), *fake.modules.buffers())
    for values in trainer.optimizer.state.values():
        yield from (value for value in values.values() if isinstance(value, Tensor))


def _rehearsed(watch: Watch, held: list[Tensor]) -> Rehearsed:
    state = sum(tensor.untyped_storage().nbytes() for tensor in held)
    return Rehearsed(
        watch.operations, watch.flops, state, state + sum(watch.peak), watch.waits, watch.uploads, watch.mixed
    )
