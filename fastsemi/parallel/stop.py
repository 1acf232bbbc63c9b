"""Stopping a run between two steps, at once where nothing is half done, or after a time in any case."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import select
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from fastsemi.common.errors import Interrupted
from fastsemi.parallel import processes
from fastsemi.parallel.launch import launched

SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)

# Seconds in which signals are one request: torchrun hands on what the terminal or Slurm has sent to all
# processes already, and a terminal that closes may send SIGHUP twice.
_TOGETHER, _TOGETHER_LAUNCHED = 0.5, 3.0


class Stop:
    """Whether a signal has asked for an end, and where it may come.

    Attributes:
        number: The first signal; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._held = self._raised = False

    def is_set(self) -> bool:
        """Whether there was a signal."""
        return self.number > 0

    def set(self, number: int) -> None:
        """Remember a signal, unless there was one."""
        self.number = self.number or number

    def give_way(self) -> None:
        """End here, once, if there was a signal and nothing holds it.

        Raises:
            Interrupted: There was.
        """
        if self.number and not self._held and not self._raised:
            self._raised = True
            name = signal.Signals(self.number).name
            raise Interrupted(f"stopped by {name}", self.number, alone=processes.world() > 1)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that a signal does not interrupt: it asks itself, between two steps."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In a block of `held`, one in which nothing is half done: a signal ends it at once.

        Not where other processes may be further: all have to end after the same step.
        """
        before, self._held = self._held, processes.world() > 1
        try:
            self.give_way()
            yield
        finally:
            self._held = before


@contextmanager
def stop_signals(
    stop: Stop, grace_s: float = math.inf, *, before_end: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Within the block, the first of `SIGNALS` sets `stop` and raises `Interrupted` unless `stop` is held.

    A second one ends the process at once, and so does the end of the time, whatever the main thread waits
    for: a thread of its own sees to that. Files are replaced whole, so what lies in the run's folder is what
    a kill would leave. SIGQUIT prints what all threads are doing and changes nothing.

    SIGHUP stays ignored where it is (nohup). Outside the main thread, where Python allows no handlers,
    signals keep their meaning.

    Args:
        stop: Told of the first signal.
        grace_s: Seconds from the first signal to the end of the process.
        before_end: Called before the process ends at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        stop.set(number)
        stop.give_way()

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    watcher = threading.Thread(
        target=_watch, args=(receiver, stop, grace_s, before_end), name="fastsemi-signals", daemon=True
    )
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    taken = [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
    fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher.start()
    before = {number: signal.signal(number, handler) for number in taken}
    faulthandler.register(signal.SIGQUIT, file=2)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGQUIT)
        for number, old in before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(fd)
        with contextlib.suppress(BlockingIOError):
            sender.send(b"\0")
        watcher.join(1.0)
        sender.close()
        receiver.close()


def _leave_terminal() -> None:
    """Let what is printed go nowhere where the terminal was closed: writing to it would be an error."""
    with open(os.devnull, "w") as nowhere, contextlib.suppress(OSError):
        for fd in (1, 2):
            if stat.S_ISCHR(os.fstat(fd).st_mode):
                os.dup2(nowhere.fileno(), fd)


def _watch(receiver: socket.socket, stop: Stop, grace_s: float, before_end: Callable[[], None]) -> None:
    """Reads the numbers of signals, which Python writes whatever the main thread does; 0 is the end."""
    first = math.inf
    together = _TOGETHER_LAUNCHED if launched() else _TOGETHER
    while True:
        left = None if math.isinf(first + grace_s) else max(0.0, first + grace_s - time.monotonic())
        if not select.select([receiver], [], [], left)[0]:
            return _end(stop, f"could not stop within {grace_s:g} s (train.grace_s)", before_end)
        for number in receiver.recv(64) or b"\0":
            now = time.monotonic()
            if number == 0:
                return None
            if number not in SIGNALS:
                continue
            if math.isinf(first):
                stop.set(number)
                first = now
            elif now - first > together and number != signal.SIGXCPU:  # which comes every second
                return _end(stop, f"{signal.Signals(number).name} after another signal", before_end)


def _end(stop: Stop, why: str, before_end: Callable[[], None]) -> None:
    before_end()
    text = f"fastsemi: {why}: ended at once; the same command resumes from the last checkpoint\n"
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, text.encode())
    os._exit(128 + stop.number)


class StopVote:
    """Whether a process was asked to stop, known to all after the same step.

    The vote of a step is counted while the next one runs, so no process waits for another one.

    Args:
        stop: Set in a process that was asked to stop.
    """

    def __init__(self, stop: Stop):
        self._stop, self._box = stop, torch.zeros((), dtype=torch.int32)
        self._work: dist.Work | None = None

    def after_step(self) -> int:
        """Cast the vote of a step; the signal after which all are to stop, 0 for none."""
        group = processes.control_group()
        if group is None:
            return self._stop.number
        result = self._count()
        self._box = torch.tensor(self._stop.number, dtype=torch.int32)
        self._work = dist.all_reduce(self._box, dist.ReduceOp.MAX, group, async_op=True)
        return result

    def _count(self) -> int:
        if self._work:
            self._work.wait()
            self._work = None
        return int(self._box)

    def now(self) -> int:
        """The signal that a process was sent, 0 for none; waits for all."""
        self._count()
        return int(processes.largest(self._stop.number))
