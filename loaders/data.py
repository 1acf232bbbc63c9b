"""The data of a run: which images, which labels, and the loaders of each role."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.device_copy import CudaCopier, load_to_device
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.index.labels import select_labelled, unlabelled_ids
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.prefetch import BadImages, Loader, Prefetcher
from fastsemi.loaders.settings import DataConfig, LoaderConfig
from fastsemi.loaders.sources.open import IndexedSource, open_source


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of an index that serve one role, and the source of their bytes."""

    index: Index
    source: IndexedSource
    ids: NDArray[np.int64]


class Data:
    """Opens indexes and engines of a run when they are first needed; close it at the end.

    Args:
        config: Images and labels.
        loader: How to read them.
        device: Where batches go; on a CUDA device they come there ahead of the step that uses them.
    """

    def __init__(self, config: DataConfig, loader: LoaderConfig, *, device: torch.device | None = None):
        self.config, self.loader = config, loader
        self._device = device if device is not None and device.type == "cuda" else None
        self.bad = BadImages(config.max_bad)
        self._engines: dict[int, Engine] = {}

    def _open(self, what: str | Path, has_classes: bool) -> ImageSet:
        source = open_source(
            self.config.root if has_classes else Path(),
            what,
            has_classes=has_classes,
            max_pixels=self.config.max_pixels,
            threads=4 * self.loader.thread_count,
            refresh=self.config.reindex,
        )
        return ImageSet(source.index, source, np.arange(len(source)))

    def open_unlabelled(self, what: str | Path) -> ImageSet:
        """Images without their classes: what `data.unlabeled` may name, relative to the working directory.

        Raises:
            UserError: As `open_source`.
        """
        return self._open(what, False)

    @cached_property
    def _train(self) -> ImageSet:
        return self._open(self.config.train, True)

    @cached_property
    def labelled(self) -> ImageSet:
        """The labelled images."""
        labels, train = self.config.labels, self._train
        ids = select_labelled(
            train.index,
            fraction=labels.fraction,
            per_class=labels.per_class,
            index_file=labels.file,
            seed=labels.seed,
        )
        return replace(train, ids=ids)

    @cached_property
    def unlabelled(self) -> ImageSet:
        """The unlabelled images: a folder of their own, or the training images without a label."""
        if self.config.unlabeled is not None:
            return self.open_unlabelled(self.config.unlabeled)
        labelled = self.labelled
        ids = unlabelled_ids(
            labelled.index, labelled.ids, include_labelled=self.config.unlabelled_includes_labelled
        )
        if not len(ids):
            raise UserError(
                f"all {len(labelled.ids)} images of {labelled.index.root} are labelled, no unlabelled one is "
                "left; label fewer, set data.unlabelled_includes_labelled or give data.unlabeled"
            )
        return replace(labelled, ids=ids)

    @cached_property
    def pretraining(self) -> ImageSet:
        """All training images, or the folder of unlabelled ones where there is one."""
        if self.config.unlabeled is not None:
            return self.unlabelled
        return self._train

    @cached_property
    def val(self) -> ImageSet:
        """The evaluation images; their classes are those of the training images."""
        images = self._open(self.config.val, True)
        found = images.index.classes
        # the highest class numbers may be without evaluation image; names come as a whole
        numbered = found == tuple(str(i) for i in range(len(found)))
        if found != (self.classes[: len(found)] if numbered else self.classes):
            odd = sorted(set(found) ^ set(self.classes))[:3]
            raise UserError(
                f"{images.index.root} has other classes than {self._train.index.root} "
                f"({', '.join(odd)}, ...); give both the same classes"
            )
        return images

    def digest(self, stage: str) -> str:
        """A fingerprint of the names and labels of the images that a stage learns from."""
        sets = [self.pretraining] if stage == "pretrain" else [self.labelled]
        if stage == "semi":
            sets.append(self.unlabelled)
        sha = hashlib.sha256()
        for images in sets:
            for part in (images.index.path_blob, images.index.path_offsets, images.ids):
                sha.update(np.ascontiguousarray(part).data)
            if stage != "pretrain":
                sha.update(np.ascontiguousarray(images.index.labels).data)
        return sha.hexdigest()[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the position is the label."""
        return self._train.index.classes

    def with_loader(self, loader: LoaderConfig) -> Data:
        """The same images with engines of their own; close both."""
        other = copy.copy(self)
        other.loader, other._engines = loader, {}
        return other

    def engine(self, images: ImageSet) -> Engine:
        """The engine of a source, opened once."""
        key = id(images.source)
        if key not in self._engines:
            self._engines[key] = create_engine(
                self.loader.engine,
                images.source,
                image_size=self.config.image_size,
                threads=self.loader.thread_count,
                max_pixels=self.config.max_pixels,
                options=self.loader.dali,
                device=self._device or torch.device("cpu"),
            )
        return self._engines[key]

    @property
    def on_gpu(self) -> bool:
        """Whether batches come on a CUDA device."""
        return self._device is not None

    @cached_property
    def _copier(self) -> CudaCopier:
        """One for all loaders: PyTorch keeps each stream its own memory, and evaluations load anew."""
        assert self._device is not None
        return CudaCopier(self._device)

    @contextmanager
    def load(
        self, images: ImageSet, plans: Iterable[PlannedBatch], *, allow_empty: bool = False
    ) -> Iterator[Loader]:
        """Load planned batches of `images` in order, ahead of time, within a `with` block.

        Batches come on the CUDA device that the object was made for, else on the CPU.

        `allow_empty` is for evaluation, where a batch may consist of broken images alone.
        """
        create: Callable[..., Loader] = Prefetcher
        if self._device is not None:
            create = partial(load_to_device, copier=self._copier)
        with create(
            self.engine(images),
            plans,
            depth=self.loader.prefetch,
            timeout=self.loader.timeout_s,
            bad=self.bad,
            allow_empty=allow_empty,
        ) as batches:
            yield batches

    def close(self) -> None:
        """Stop all engines."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
