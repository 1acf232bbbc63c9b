"""The end of a process that has threads which may never return."""

from __future__ import annotations

import io
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


def ready_streams() -> None:
    """Let standard output and the errors take any text.

    Where they are closed (`>&-`) it goes nowhere: a file opened later would get their number. What the
    encoding of the terminal lacks is written as an escape.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # closed from the start
            setattr(sys, name, open(number, "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as the errors are by default


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
        sys.stdout.flush()
    except OSError:  # another one Python itself tells
        if reader_left():
            code = code or READER_LEFT
    if _left:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
