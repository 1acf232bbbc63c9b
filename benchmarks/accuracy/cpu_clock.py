"""CPU seconds of training, for machines that others use too."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class CpuClock:
    """CPU seconds since it was made, all threads and workers together, without those of pauses."""

    def __init__(self) -> None:
        self._start, self._left_out = _own() + _workers(), 0.0

    @property
    def seconds(self) -> float:
        """Those that count, so far."""
        return _own() + _workers() - self._start - self._left_out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What this process does inside does not count; workers, which read ahead, go on counting."""
        begin = _own()
        try:
            yield
        finally:
            self._left_out += _own() - begin


def _own() -> float:
    return time.process_time()


def _workers() -> float:
    """Of processes that this one started through `multiprocessing`, and of those that have ended."""
    ended = os.times()
    live = 0.0
    for worker in multiprocessing.active_children():
        with suppress(FileNotFoundError):  # it has just ended
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            live += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user, system: proc(5)
    return ended.children_user + ended.children_system + live
