"""Finds the file whose read never returns."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from numpy.typing import NDArray

from fastsemi.loaders.sources.base import Source

_POLL = 0.02


def silent(source: Source, ids: NDArray, patience: float) -> str | None:
    """Read images once more, in a thread that is left alone where it hangs.

    Args:
        source: The images.
        ids: Which.
        patience: Seconds that a read may take; all together may take five times as many.

    Returns:
        The name of the first that takes longer; None where none does.
    """
    at: list[tuple[int, float]] = []
    over = threading.Event()

    def read() -> None:
        for i in map(int, ids):
            at.append((i, time.monotonic()))
            with suppress(Exception):  # it is damaged, which is another matter: reading it returns
                source.read_one(i)
            if over.is_set():
                return
        over.set()

    threading.Thread(target=read, name="fastsemi-silent", daemon=True).start()
    end = time.monotonic() + 5 * patience
    while not over.wait(_POLL) and time.monotonic() < end:
        if at and time.monotonic() - at[-1][1] > patience:
            over.set()
            return source.name(at[-1][0])
    over.set()
    return None
