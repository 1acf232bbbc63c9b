"""Speed of training, without the time spent on evaluation and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """Between two readings."""

    steps_per_s: float
    waited: float
    """Fraction of the time in which the loop waited for data."""


class Meter:
    """A stopwatch with pauses.

    Args:
        step: Steps done before it starts.

    Attributes:
        total: Seconds run so far, as of the last reading or pause.
    """

    def __init__(self, step: int):
        self.total = 0.0
        self._step, self._waited, self._since = step, 0.0, 0.0
        self._started = time.perf_counter()

    def _lap(self) -> None:
        now = time.perf_counter()
        self.total += now - self._started
        self._since += now - self._started
        self._started = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block does not count."""
        self._lap()
        try:
            yield
        finally:
            self._started = time.perf_counter()

    def read(self, step: int, waited: float) -> Speed:
        """Speed since the last reading.

        Args:
            step: Steps done.
            waited: Seconds waited for data since the start, in all.
        """
        self._lap()
        seconds = max(self._since, 1e-9)
        speed = Speed((step - self._step) / seconds, (waited - self._waited) / seconds)
        self._step, self._waited, self._since = step, waited, 0.0
        return speed
