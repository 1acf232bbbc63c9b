"""The end of a process that has threads which may never return."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

_left: list[object] = []


def abandon(thing: object) -> None:
    """Keep what owns a thread that hangs: to let go of it would mean to wait for the thread."""
    _left.append(thing)


def leave(code: int) -> NoReturn:
    """End the process with an exit code; Python's own end waits for every thread of a pool."""
    if _left:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
