"""Stopping a run between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from fastsemi.parallel import processes
from fastsemi.parallel.launch import launched

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


class StopVote:
    """Whether a process was asked to stop, known to all after the same step.

    The vote of a step is counted while the next one runs, so no process waits for another one.

    Args:
        stop: Set in a process that was asked to stop.
    """

    def __init__(self, stop: threading.Event):
        self._stop, self._box = stop, torch.zeros((), dtype=torch.int32)
        self._work: dist.Work | None = None

    def after_step(self) -> bool:
        """Cast the vote of a step; whether all are to stop after it."""
        group = processes.control_group()
        if group is None:
            return self._stop.is_set()
        result = self._count()
        self._box = torch.tensor(int(self._stop.is_set()), dtype=torch.int32)
        self._work = dist.all_reduce(self._box, dist.ReduceOp.MAX, group, async_op=True)
        return result

    def _count(self) -> bool:
        if self._work:
            self._work.wait()
            self._work = None
        return bool(self._box)

    def now(self) -> bool:
        """Whether a process has been asked to stop; waits for all."""
        self._count()
        return processes.largest(self._stop.is_set()) > 0
