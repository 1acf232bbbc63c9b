"""One process, or one group of processes, in a run directory at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from fastsemi.common.errors import UserError
from fastsemi.parallel import processes
from fastsemi.parallel.rendezvous import wait_briefly
from fastsemi.run.folder import RunFolder


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Keep a second run out of the run directory within the block; one that stays empty goes again.

    Raises:
        UserError: Another process trains there, or it cannot be written.
    """
    if not processes.is_main():
        yield
        return
    made = not folder.path.exists()
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = folder.lock.open("w")
    except OSError as error:
        raise UserError(
            f"cannot write run directory {folder.path}: {error.strerror}; change --output"
        ) from None
    with lock:
        # Started again after a loss, the processes of the first start may take a moment to end.
        patience = 30.0 if processes.world() > 1 else 0.0
        if not wait_briefly(lambda: _try_lock(lock), patience):
            raise UserError(f"another process trains in {folder.path}; wait for it or give another --output")
        try:
            yield
        finally:
            if made:
                _leave_no_trace(folder)


def _leave_no_trace(folder: RunFolder) -> None:
    """Remove a directory in which nothing but the lock was written, as by a run that was refused."""
    with suppress(OSError):
        if os.listdir(folder.path) == [folder.lock.name]:
            folder.lock.unlink()
            folder.path.rmdir()


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
