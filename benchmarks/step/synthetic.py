"""A run without files: ready uint8 batches, planned by the real streams, for the real trainer."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastsemi.common.precision import Precision
from fastsemi.kernels.dispatch import select
from fastsemi.kernels.settings import KernelKind
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.plan.packing import planned_arrays, upload
from fastsemi.loaders.plan.types import LoadedBatch, PlannedBatch
from fastsemi.loaders.prefetch import Loader
from fastsemi.loaders.settings import DataConfig, LoaderConfig
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.models.trainable import prepare_training
from fastsemi.parallel.stop import Stop
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import Views
from fastsemi.stages.semi import Semi
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.training.settings import CompileConfig
from fastsemi.training.trainer import LoopConfig, Trainer
from fastsemi.training.watchdog import Watchdog

SOURCE_SIZE = (500, 375)  # the most frequent size in ImageNet: it only shapes the planned windows
DISTINCT = 2  # batches of a pass over synthetic images


def mix_config() -> MixConfig:
    """The paper's mixup and cutmix; without SciPy, whose quantiles mixup needs, both with alpha 1."""
    return MixConfig() if importlib.util.find_spec("scipy") else MixConfig(1.0, 1.0)


class NoLog:
    """Takes metrics and progress, and keeps the last row of each step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def rewind(self, stage: str, step: int) -> None:
        """Nothing was written."""

    def write(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Keep a row of metrics."""
        self.rows.append({"stage": stage, "step": step, **values})

    def close(self) -> None:
        """Nothing is open."""

    def start(self, stage: str, step: int, total: int) -> None:
        """Show nothing."""

    def update(self, step: int, row: dict[str, float]) -> None:
        """Show nothing."""

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""


class Ready(Loader):
    """A loader that is never waited for."""

    def __init__(self, batches: list[LoadedBatch]):
        self._batches, self.waited = cycle(batches), 0.0

    def __next__(self) -> LoadedBatch:
        return next(self._batches)

    def close(self) -> None:
        """Nothing is open."""


def index_of(count: int, classes: int) -> Index:
    """An index of images that are on no disk."""
    names = [b"%d.jpg" % i for i in range(count)]
    return Index(
        root=Path("/synthetic"),
        classes=tuple(f"class{i}" for i in range(classes)),
        path_blob=np.frombuffer(b"".join(names), dtype=np.uint8),
        path_offsets=np.concatenate([[0], np.cumsum([len(n) for n in names])]).astype(np.int64),
        labels=(np.arange(count) % classes).astype(np.int32),
        sizes=np.full((count, 2), SOURCE_SIZE, dtype=np.int32),
        broken=np.empty(0, dtype=np.int64),
    )


class SyntheticData(Data):
    """Noise in place of images; every batch is in memory before it is asked for.

    Args:
        labelled: Number of labelled images.
        unlabelled: Number of unlabelled images.
        classes: Number of classes.
        image_size: Side of a view in pixels.
        device: Where batches lie: the loaders of a run bring them there ahead of the step.
        batches: How many different ones there are, used in turn.
    """

    def __init__(
        self,
        labelled: int,
        unlabelled: int,
        *,
        classes: int,
        image_size: int,
        device: torch.device,
        batches: int = DISTINCT,
    ):
        super().__init__(DataConfig(image_size=image_size), LoaderConfig(), device=device)
        self._counts, self._names, self._where = (labelled, unlabelled), classes, device
        self._batches = batches

    @cached_property
    def _all(self) -> ImageSet:
        index = index_of(sum(self._counts), self._names)
        return ImageSet(index, FolderSource(index), np.arange(len(index)))

    @cached_property
    def labelled(self) -> ImageSet:
        """The first images."""
        return ImageSet(self._all.index, self._all.source, self._all.ids[: self._counts[0]])

    @cached_property
    def unlabelled(self) -> ImageSet:
        """The others."""
        return ImageSet(self._all.index, self._all.source, self._all.ids[self._counts[0] :])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self._all.index.classes

    @contextmanager
    def load(
        self,
        images: ImageSet,
        plans: Iterable[PlannedBatch],
        *,
        allow_empty: bool = False,
        image_size: int | None = None,
    ) -> Iterator[Loader]:
        """The first few planned batches, over and over."""
        batches = []
        for i, plan in enumerate(islice(plans, self._batches)):
            size = image_size or self.config.image_size
            shape = (len(plan.views), len(plan.ids), size, size, 3)
            noise = torch.randint(256, shape, generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
            valid = np.ones(len(plan.ids), dtype=bool)
            tensors = upload(planned_arrays(plan, valid), self._where)
            batches.append(LoadedBatch(plan, noise.to(self._where), valid, tensors))
        yield Ready(batches)


def semi_trainer(
    model: ModelConfig,
    config: SemiConfig,
    data: Data,
    precision: Precision,
    *,
    compiled: bool = False,
    kernels: KernelKind = "auto",
) -> Trainer:
    """The trainer of the semi stage as a run builds it, from a random network and with a silent log.

    Args:
        model: The network.
        config: The stage's settings.
        data: Real or synthetic.
        precision: Device and number format.
        compiled: Whether student and teacher are compiled.
        kernels: Implementation of the device operations.
    """
    torch.manual_seed(0)
    views = Views(data.config, precision.device, select(kernels, precision.device), precision.dtype)
    with precision.device:  # where its random weights are drawn
        network = create_model(
            model,
            num_classes=len(data.classes),
            image_size=data.config.image_size,
            drop_path=config.drop_path,
            keep_tokens=config.keep_tokens,
        )
    prepare_training(network, model, seed=0)
    stage: Stage = Semi(config, network, data, views, seed=0)
    stage.model.train()
    log: Any = NoLog()
    return Trainer(
        stage,
        data,
        views,
        precision,
        LoopConfig(
            seed=0, log_every=10**9, eval_batch=256, optimizer="fused", compile=CompileConfig(compiled)
        ),
        Path("/nonexistent"),
        log,
        log,
        fingerprint={},
        stop=Stop(),
        watchdog=Watchdog(0, Path("/nonexistent")),
    )
