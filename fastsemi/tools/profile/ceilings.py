"""The most that each part of a job gives on its own, in images/s of the stage's main stream."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from itertools import count, repeat

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.native import JPEG_SUFFIXES, READERS
from fastsemi.loaders.settings import LoaderConfig
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.stages.base import Role
from fastsemi.tools.profile.job import load_steps, planned

_WARM = 2  # steps of a loader before the clock starts


class MemorySource:
    """Encoded images in memory; implements `fastsemi.loaders.sources.base.Source`.

    Args:
        source: Where they come from; names and sizes are still its own.
        ids: Which ones are held.
    """

    def __init__(self, source: Source, ids: NDArray[np.int64]):
        self._source = source
        self._held = dict(zip(ids.tolist(), source.read(ids), strict=True))

    def __len__(self) -> int:
        return len(self._source)

    def read(self, ids: Sequence[int] | NDArray) -> list[bytes | BadImageError]:
        """The bytes of each image, or why there are none."""
        return [self._held[int(i)] for i in ids]

    def read_one(self, i: int) -> bytes:
        """The bytes of one image.

        Raises:
            BadImageError: The source could not read it.
        """
        held = self._held[i]
        if isinstance(held, BadImageError):
            raise held
        return held

    def name(self, i: int) -> str:
        """As the source calls it."""
        return self._source.name(i)

    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._source.size(i)


def is_raw(source: Source) -> bool:
    """Whether images are stored as pixels, which nothing has to decode."""
    return isinstance(source, BetonSource) and bool(source.raw.all())


def reads_apart(source: Source, engine: str) -> bool:
    """Whether an engine reads in other threads than it decodes in."""
    if engine != "native":
        return False
    jpegs = isinstance(source, FolderSource) and source.name(0).lower().endswith(JPEG_SUFFIXES)
    return not (jpegs or is_raw(source))


def readers(source: Source, engine: str, config: LoaderConfig) -> int:
    """Images that an engine reads at the same time."""
    if engine == "dali" and not isinstance(source, FolderSource):
        return READERS
    if not reads_apart(source, engine):
        return config.thread_count
    # each batch is read by one thread, and no more batches are under way than are fetched ahead
    return min(max(READERS, config.thread_count), config.prefetch)


class LoaderCeilings:
    """Loader, decoding and reading, each alone.

    Args:
        data: The run's data.
        roles: The stage's streams.
        images: Images of the main stream in a step.
        step: Where to begin; each measurement goes on with images that were not read before.
    """

    def __init__(self, data: Data, roles: Mapping[str, Role], images: int, step: int):
        self._data, self._roles, self._images, self.step = data, roles, images, step
        self._memory: tuple[int, dict[str, Role]] | None = None

    def loader(self, seconds: float) -> float:
        """Loading as training does, with nobody training."""
        start = self.step
        steps = load_steps(self._data, self._roles, lambda: count(start))
        rate, done = self._rate(steps, seconds, self._warm())
        self.step += done + self._data.loader.prefetch
        return rate

    def _warm(self) -> int:
        """Batches that are read beside each other come all at once in the beginning."""
        main = next(iter(self._roles.values())).images
        apart = reads_apart(main.source, self._data.engine(main).name)
        return self._data.loader.prefetch if apart else _WARM

    def decode(self, seconds: float) -> float:
        """The loader with the files' bytes in memory: one batch again and again."""
        if self._memory is None:
            self._memory = self.step, self._in_memory()
            self.step += 1
        step, roles = self._memory
        return self._rate(load_steps(self._data, roles, lambda: repeat(step)), seconds)[0]

    def read(self, seconds: float) -> float:
        """Reading bytes with as many readers as the engine has, decoding nothing."""
        main = next(iter(self._roles.values())).images
        threads = readers(main.source, self._data.engine(main).name, self._data.loader)
        with ThreadPoolExecutor(threads) as pool:
            rate, done = self._rate(self._read(pool, 4 * threads), seconds)
        self.step += done
        return rate

    def _read(self, pool: ThreadPoolExecutor, parts: int) -> Generator[None, None, None]:
        for step in count(self.step):
            jobs = [
                pool.submit(role.images.source.read, part)
                for role in self._roles.values()
                for part in np.array_split(_ids(role, step), parts)
            ]
            wait(jobs)
            yield

    def _rate(
        self, steps: Generator[None, None, None], seconds: float, warm: int = _WARM
    ) -> tuple[float, int]:
        """Images/s over steps for about `seconds`, and all steps done.

        The first steps, in which threads start, do not count.
        """
        started, done = 0.0, 0
        with closing(steps):
            for done, _ in enumerate(steps, 1):
                if done == warm:
                    started = time.perf_counter()
                elif done > warm and time.perf_counter() - started >= seconds:
                    break
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            took = time.perf_counter() - started
        return (done - warm) * self._images / took, done

    def _in_memory(self) -> dict[str, Role]:
        """The roles with sources that hold the images of one step."""
        held = {}
        for name, role in self._roles.items():
            source = MemorySource(role.images.source, _ids(role, self.step))
            images = replace(role.images, source=source)  # type: ignore[arg-type]
            held[name] = replace(role, images=images)
        return held


def _ids(role: Role, step: int) -> NDArray[np.int64]:
    return np.concatenate([plan.ids for plan in planned(role, [step])])
