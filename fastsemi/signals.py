"""Stopping a run between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastsemi.distributed import launched

_TOGETHER = 3.0  # seconds in which signals to a process of torchrun are one request


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM) and has saved a checkpoint."""


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM set `stop`; another one, seconds later, interrupts at once.

    Not sooner: torchrun hands on a signal that the terminal or Slurm has sent to all processes already.

    Outside the main thread, where Python allows no handlers, signals keep their meaning.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    first = 0.0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not stop.is_set():
            first = time.monotonic()
            stop.set()
        elif not launched() or time.monotonic() - first > _TOGETHER:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
