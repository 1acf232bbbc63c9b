"""The end of a process that has threads which may never return."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import NoReturn

READER_LEFT = 128 + signal.SIGPIPE  # exit code, as a shell reports a process that SIGPIPE has ended

_left: list[object] = []


def abandon(thing: object) -> None:
    """Keep what owns a thread that hangs: to let go of it would mean to wait for the thread."""
    _left.append(thing)


def reader_left() -> bool:
    """Whether who reads standard output or the errors has gone (`... | head`).

    What is written to it from then on goes nowhere.
    """
    gone = False
    for stream in (1, 2):
        poll = select.poll()
        poll.register(stream, 0)  # that the other end is closed is told unasked
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)  # else Python complains at its end of what it could not write
            os.close(nowhere)
            gone = True
    return gone


def leave(code: int) -> NoReturn:
    """End the process with an exit code; Python's own end waits for every thread of a pool."""
    try:
        if sys.stdout is not None:  # closed from the start
            sys.stdout.flush()
    except OSError:  # another one Python itself tells
        if reader_left():
            code = code or READER_LEFT
    if _left:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
