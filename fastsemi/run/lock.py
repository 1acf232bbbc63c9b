"""One process, or one group of processes, in a run directory at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

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
    # Started again after a loss, the processes of the first start may take a moment to end.
    patience = 30.0 if processes.world() > 1 else 0.0
    with ExitStack() as held:
        try:
            free = wait_briefly(lambda: _try_lock(folder, held), patience)
        except OSError as error:
            raise UserError(
                f"cannot write run directory {folder.path}: {error.strerror}; change --output"
            ) from None
        if not free:
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


def _try_lock(folder: RunFolder, held: ExitStack) -> bool:
    """Whether the directory's lock is now in `held`.

    Whoever held it before may have removed the directory meanwhile, and the file that was opened with it.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as here:
        try:
            lock = here.enter_context(folder.lock.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), folder.lock.stat()):
                return False
        except (BlockingIOError, FileNotFoundError):
            return False
        held.push(here.pop_all())
        return True
