"""The data of a run: which images and which labels each role has, and the loaders of their batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.batches import Batches
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.in_memory import Picture, PicturesInMemory
from fastsemi.loaders.index.labels import hold_out, select_labelled, unlabelled_ids
from fastsemi.loaders.index.listed import index_files
from fastsemi.loaders.index.same_classes import with_classes_of
from fastsemi.loaders.index.same_files import ids_also_in
from fastsemi.loaders.index.table import Part, has_columns
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.prefetch import Loader
from fastsemi.loaders.settings import DataConfig, LoaderConfig
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.sources.open import (
    IndexedSource,
    is_table,
    open_source,
    open_unlabelled,
    require_evaluation,
)

_log = logging.getLogger(__name__)


class Data:
    """Opens indexes and engines of a run when they are first needed; close it at the end.

    Args:
        config: Images and labels.
        loader: How to read them.
        device: Where batches go; on a CUDA device they come there ahead of the step that uses them.
        bad: Policy and count of broken files; by default those of `config`, counted anew.
    """

    def __init__(
        self,
        config: DataConfig,
        loader: LoaderConfig,
        *,
        device: torch.device | None = None,
        bad: BadImages | None = None,
    ):
        self.config = config
        self.batches = Batches(config, loader, device=device, bad=bad)

    def _open(self, what: str | Path, part: Part) -> ImageSet:
        labels = self._table if part == "train" else None
        root = self.config.root
        return _all_of(open_source(root, what, has_classes=True, part=part, labels=labels, **self._options))

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "max_pixels": self.config.max_pixels,
            "threads": 4 * self.loader.thread_count,
            "refresh": self.config.reindex,
            "exif": self.config.exif,
            "remote": self.loader.remote,
        }

    def open_unlabelled(self, *places: str | Path) -> ImageSet:
        """Images without their classes: what `data.unlabeled` may name, relative to the working directory.

        Raises:
            UserError: As `open_unlabelled` of `loaders/sources/open.py`.
        """
        return _all_of(open_unlabelled(places, **self._options))

    @cached_property
    def _table(self) -> Path | None:
        """The table that says which training images have which label, where there is one."""
        file = self.config.labels.file
        return file if file is not None and has_columns(file) else None

    def open_files(self, paths: Sequence[str]) -> ImageSet:
        """Image files that are named one by one, without classes."""
        config, threads = self.config, 4 * self.loader.thread_count
        source = FolderSource(index_files(paths, max_pixels=config.max_pixels, threads=threads))
        if config.exif == "apply":
            source = source.as_turned()
        return ImageSet(source.index, source, np.arange(len(source)))

    def open_pictures(self, pictures: Sequence[Picture], names: Sequence[str]) -> ImageSet:
        """Pictures that a program holds, as `PicturesInMemory`."""
        source = PicturesInMemory(pictures, names, exif=self.config.exif)
        return ImageSet(source.index, source, np.arange(len(source)))

    @cached_property
    def train(self) -> ImageSet:
        """The training images, of which `labelled` chooses some."""
        return self._open(self.config.train, "train")

    @cached_property
    def all_labelled(self) -> ImageSet:
        """The images with a label: those that train, and those that are held out."""
        labels, train = self.config.labels, self.train
        if len(train.index.classes) == 1:
            raise UserError(
                f"{train.index.root} holds the one class {train.index.classes[0]}; a classifier needs "
                "two or more"
            )
        ids = select_labelled(
            train.index,
            fraction=labels.fraction,
            per_class=labels.per_class,
            index_file=labels.file,
            seed=labels.seed,
        )
        return replace(train, ids=ids)

    @cached_property
    def held_out(self) -> ImageSet:
        """The labelled images whose labels train nothing; none unless `data.labels.validation` is set."""
        every, labels = self.all_labelled, self.config.labels
        if not labels.validation:
            return replace(every, ids=every.ids[:0])
        return replace(every, ids=hold_out(every.index, every.ids, labels.validation, labels.seed))

    @cached_property
    def labelled(self) -> ImageSet:
        """The labelled images that train."""
        every = self.all_labelled
        if len(both := np.intersect1d(every.ids, self._evaluated)):
            raise UserError(
                f"{len(both)} images have a label to train on and are among the evaluation images, the "
                f"first: {every.source.name(int(both[0]))}; take them out of one of them"
            )
        return replace(every, ids=np.setdiff1d(every.ids, self.held_out.ids))

    @property
    def unlabelled(self) -> ImageSet:
        """The unlabelled images.

        A folder of their own, or the training images whose label trains nothing. Held-out images are among
        the latter, unless they are the evaluation images, which are in neither.

        Raises:
            UserError: No image is left.
        """
        images = self.unlabelled_or_none
        if images is None and self.config.unlabeled is not None:
            raise UserError("all images of data.unlabeled are evaluated on, none is left; give it others")
        if images is None:
            labelled = self.all_labelled
            raise UserError(
                f"all {len(labelled.ids)} images of {labelled.index.root} are labelled, no unlabelled one is "
                "left; label fewer, set data.unlabelled_includes_labelled or give data.unlabeled"
            )
        return images

    @cached_property
    def unlabelled_or_none(self) -> ImageSet | None:
        """The unlabelled images, None where all are labelled or evaluated on."""
        if self.config.unlabeled is not None:
            return self._not_evaluated(self.open_unlabelled(*self.config.unlabelled_places))
        labelled = self.labelled
        ids = unlabelled_ids(
            labelled.index, labelled.ids, include_labelled=self.config.unlabelled_includes_labelled
        )
        ids = self._unevaluated(ids)
        return replace(labelled, ids=ids) if len(ids) else None

    @cached_property
    def pretraining(self) -> ImageSet:
        """All training images but the evaluated ones, or the folder of unlabelled ones where there is one."""
        if self.config.unlabeled is not None:
            return self.unlabelled
        return replace(self.train, ids=self._unevaluated(self.train.ids))

    def _not_evaluated(self, images: ImageSet) -> ImageSet | None:
        """Images of a place of their own without the files that are evaluated on; None if none is left."""
        evaluated = None
        with suppress(UserError):  # whoever evaluates says what is wrong
            if not self.config.evaluates:
                return images
            if self.config.val is None:
                evaluated = self.held_out
            elif os.path.exists(self.config.root / self.config.val):
                evaluated = self._val_images
        if evaluated is None or not all(isinstance(i.source, FolderSource) for i in (images, evaluated)):
            return images
        both = ids_also_in(images.index, evaluated.index, evaluated.ids)
        if not len(both):
            return images
        text = "%s: %d of %d images are evaluated on, so that they are not trained on"
        _log.info(text, images.index.root, len(both), len(images.ids))
        ids = images.ids[~np.isin(images.ids, both)]
        return replace(images, ids=ids) if len(ids) else None

    def _unevaluated(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some training images that are not evaluated on, not even looked at without their label."""
        if not self.config.evaluates:
            return ids
        return ids[~np.isin(ids, self.held_out.ids if self.config.val is None else self._evaluated)]

    @cached_property
    def _evaluated(self) -> NDArray[np.int64]:
        """Ids of training images that are evaluation images too: those of a table may lie together."""
        root, val = self.config.root, self.config.val
        if val is None or not os.path.exists(root / val):
            return np.zeros(0, np.int64)
        if self._table is None and not (is_table(root / val) or is_table(root / self.config.train)):
            return np.zeros(0, np.int64)
        return ids_also_in(self.train.index, self._val_images.index)

    @property
    def selection(self) -> ImageSet:
        """The images that choose among networks: those that are held out, else the evaluation images."""
        return self.held_out if self.config.labels.validation else self.val

    @cached_property
    def val(self) -> ImageSet:
        """The evaluation images, with the classes of the training images; of some there may be none."""
        if self.config.val is None:
            return self.held_out
        images = self._val_images
        return replace(images, index=with_classes_of(self.train.index, images.index))

    @cached_property
    def _val_images(self) -> ImageSet:
        """The evaluation images with classes as they have them alone."""
        assert self.config.val is not None
        require_evaluation(self.config.root, self.config.val)
        return self._open(self.config.val, "val")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the position is the label."""
        return self.train.index.classes

    @property
    def loader(self) -> LoaderConfig:
        """How images are read."""
        return self.batches.loader

    @property
    def bad(self) -> BadImages:
        """Policy and count of broken files."""
        return self.batches.bad

    @property
    def on_gpu(self) -> bool:
        """Whether batches come on a CUDA device."""
        return self.batches.on_gpu

    def engine(self, images: ImageSet) -> Engine:
        """The engine of a source, opened once."""
        return self.batches.engine(images)

    def require_memory(self, images: ImageSet) -> None:
        """Refuse images that are too large to decode, as `Batches.require_memory`."""
        self.batches.require_memory(images)

    def load(
        self,
        images: ImageSet,
        plans: Iterable[PlannedBatch],
        *,
        allow_empty: bool = False,
        image_size: int | None = None,
    ) -> AbstractContextManager[Loader]:
        """Load planned batches, as `Batches.load`."""
        return self.batches.load(images, plans, allow_empty=allow_empty, image_size=image_size)

    def close(self) -> None:
        """Stop all engines."""
        self.batches.close()


def _all_of(source: IndexedSource) -> ImageSet:
    return ImageSet(source.index, source, np.arange(len(source)))
