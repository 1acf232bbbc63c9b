"""Loads planned batches of image sets: an engine for each source, batches ahead of time, on the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch

from fastsemi.common.leaving import abandon
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.device_copy import CudaCopier, load_to_device
from fastsemi.loaders.engines.base import PILLOW_BYTES, Engine
from fastsemi.loaders.engines.choose import create_engine, decoding_memory
from fastsemi.loaders.engines.settings import EngineName
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.prefetch import Loader, Prefetcher
from fastsemi.loaders.settings import DataConfig, LoaderConfig


class Batches:
    """Opens engines when they are first needed; close it at the end.

    Args:
        config: Size and limits of the images.
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
        self.config, self.loader = config, loader
        self.bad = BadImages(config.max_bad) if bad is None else bad
        self._device = device if device is not None and device.type == "cuda" else None
        self._engines: dict[tuple[int, bool, int], Engine] = {}
        self._users: Counter[Engine] = Counter()

    def with_loader(self, loader: LoaderConfig) -> Batches:
        """Another way to read, with engines of its own; close both."""
        return Batches(self.config, loader, device=self._device, bad=self.bad)

    def keep_engine(self, name: EngineName) -> None:
        """Read with this engine from now on; what is open with another one is opened anew."""
        self.loader = replace(self.loader, engine=name)
        others = [key for key, engine in self._engines.items() if not key[1] and engine.name != name]
        for key in others:
            self._engines.pop(key).close()

    def engine(self, images: ImageSet, *, whole: bool = False, image_size: int | None = None) -> Engine:
        """The engine of a source, opened once; with `whole` one that can resize whole images.

        `image_size` is the side of its views, in pixels; by default that of the configuration.
        """
        size = image_size or self.config.image_size
        key = id(images.source), whole, size  # the engine keeps the source alive
        name = self.loader.engine
        if whole and name != "reference":
            name = "thread_pool"
        if key not in self._engines:
            self._engines[key] = create_engine(
                name,
                images.source,
                image_size=size,
                threads=self.loader.thread_count,
                max_pixels=self.config.max_pixels,
                options=self.loader.dali,
                device=self._device or torch.device("cpu"),
                max_memory=self.loader.max_memory,
                jpeg_index_gb=self.loader.jpeg_index_gb,
            )
        return self._engines[key]

    def require_memory(self, images: ImageSet) -> None:
        """Refuse images that are too large for `loader.max_memory`, as their sizes in the index tell.

        The engine is opened only where one may be.

        Raises:
            UserError: Names the largest.
        """
        sizes = np.asarray(images.index.sizes[images.ids], dtype=np.int64)
        most = sizes.prod(1).max(initial=0) * PILLOW_BYTES
        if 2 * most > decoding_memory(self.loader.max_memory):
            self.engine(images).require_memory(images.ids, sizes)

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
        self,
        images: ImageSet,
        plans: Iterable[PlannedBatch],
        *,
        allow_empty: bool = False,
        image_size: int | None = None,
    ) -> Iterator[Loader]:
        """Load planned batches of `images` in order, ahead of time, within a `with` block.

        Batches come on the CUDA device that the object was made for, else on the CPU.

        `allow_empty` is for evaluation, where a batch may consist of broken images alone, and where whole
        images may be resized.

        `image_size` is the side of the views in pixels, by default that of the configuration. The engine of
        another size is closed with the last loader that uses it.
        """
        whole = allow_empty and self.config.eval_resize == "shorter_side"
        engine = self.engine(images, whole=whole, image_size=image_size)
        create: Callable[..., Loader] = Prefetcher
        if self._device is not None:
            create = partial(load_to_device, copier=self._copier)
        self._users[engine] += 1
        try:
            with create(
                engine,
                plans,
                depth=self.loader.prefetch,
                timeout=self.loader.timeout_s,
                bad=self.bad,
                allow_empty=allow_empty,
            ) as batches:
                yield batches
        finally:
            self._users[engine] -= 1
            self._close_unused(engine)

    def _close_unused(self, engine: Engine) -> None:
        """Close an engine of another size than the configuration's that nobody uses, unless it is stuck."""
        if self._users[engine]:
            return
        del self._users[engine]
        if engine.image_size == self.config.image_size or engine.stuck:
            return
        for key in [key for key, other in self._engines.items() if other is engine]:
            self._engines.pop(key).close()

    def close(self) -> None:
        """Stop all engines; where one is stuck, all are left as they are: they may read the same disk."""
        stuck = any(engine.stuck for engine in self._engines.values())
        for engine in self._engines.values():
            if stuck:
                abandon(engine)
            else:
                engine.close()
        self._engines.clear()
