"""CPU seconds of training, for machines that others use too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class CpuClock:
    """CPU seconds of this process since it was made, all threads together, without those of pauses."""

    def __init__(self) -> None:
        self._start, self._left_out = time.process_time(), 0.0

    @property
    def seconds(self) -> float:
        """Those that count, so far."""
        return time.process_time() - self._start - self._left_out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count; what other threads do meanwhile does not count either."""
        begin = time.process_time()
        try:
            yield
        finally:
            self._left_out += time.process_time() - begin
