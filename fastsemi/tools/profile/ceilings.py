"""The most that each part of a job gives on its own, in images/s of the stage's main stream."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from itertools import count, repeat

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.loaders.batches import Batches
from fastsemi.loaders.engines.base import Reading
from fastsemi.stages.base import Role
from fastsemi.tools.profile.job import load_steps, planned
from fastsemi.tools.profile.memory_source import MemorySource

_WARM = 2  # steps of a loader before the clock starts


class LoaderCeilings:
    """Loader, decoding and reading, each alone.

    Args:
        batches: How the run reads its images.
        roles: The stage's streams.
        images: Images of the main stream in a step.
        step: Where to begin; each measurement goes on with images that were not read before.
    """

    def __init__(self, batches: Batches, roles: Mapping[str, Role], images: int, step: int):
        self._batches, self._roles, self._images, self.step = batches, roles, images, step
        self._from_memory = batches.with_loader(batches.loader)
        self._memory: tuple[int, dict[str, Role]] | None = None

    @property
    def _reading(self) -> Reading:
        """How the engine of the main stream reads."""
        main = next(iter(self._roles.values())).images
        return self._batches.engine(main).reading(self._batches.loader.prefetch)

    def loader(self, seconds: float) -> float:
        """Loading as training does, with nobody training."""
        start = self.step
        steps = load_steps(self._batches, self._roles, lambda: count(start))
        rate, done = self._rate(steps, seconds, self._warm())
        self.step += done + self._batches.loader.prefetch
        return rate

    def _warm(self) -> int:
        """Batches that are read beside each other come all at once in the beginning."""
        return self._batches.loader.prefetch if self._reading.apart else _WARM

    def decode(self, seconds: float) -> float:
        """The loader with the files' bytes in memory: one batch again and again."""
        if self._memory is None:
            self._memory = self.step, self._in_memory()
            self.step += 1
        step, roles = self._memory
        return self._rate(load_steps(self._from_memory, roles, lambda: repeat(step)), seconds)[0]

    def read(self, seconds: float) -> float:
        """Reading bytes with as many readers as the engine has, decoding nothing."""
        threads = self._reading.at_once
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
            held[name] = replace(role, images=replace(role.images, source=source))
        return held

    def close(self) -> None:
        """Stop the engines that read from memory."""
        self._from_memory.close()


def _ids(role: Role, step: int) -> NDArray[np.int64]:
    return np.concatenate([plan.ids for plan in planned(role, [step])])
