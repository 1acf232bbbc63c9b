"""Says when a run stands still, and leaves what every thread was doing."""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)


class Watchdog:
    """Within a `with` block, writes the stacks of all threads once `beat` was not called for too long.

    Once a standstill; the run goes on, or waits on.

    Args:
        seconds: How long is too long; 0 for never.
        path: The file for the stacks, which are added to it.
    """

    def __init__(self, seconds: float, path: Path):
        self._seconds, self._path = seconds, path
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self) -> None:
        """Something has finished."""
        self._last = time.monotonic()

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self.beat()
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, name="fastsemi-watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        told = self._last - 1
        while True:
            last = self._last
            # one that was told waits for the next step, then for its time
            left = self._seconds if told == last else last + self._seconds - time.monotonic()
            if self._over.wait(max(0.0, left)):
                return
            if self._last == last and told != last:
                told = last
                self._tell()

    def _tell(self) -> None:
        what = f"no step has finished for {self._seconds:g} s (train.watchdog_s)"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {what}\n")
                file.flush()
                faulthandler.dump_traceback(file)
        except OSError as error:
            logger.warning("%s, and %s cannot be written: %s", what, self._path, error.strerror or error)
            return
        logger.warning("%s; what every thread is doing is in %s", what, self._path)
