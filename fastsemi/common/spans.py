"""Named spans of a job, `with record("teacher"):`, which cost next to nothing unless it is profiled."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType

import torch

STEP = "step"  # the span around a whole optimizer step
ON_DEVICE = ("copy",)  # spans of other threads whose work the device does, on the current stream
BETWEEN = "log"  # where a step has ended and the next has not begun: metrics, progress

_NOTHING = nullcontext()
_active: Recorder | None = None


def record(name: str) -> AbstractContextManager[None]:
    """A span of the job, in any thread. Without an active recorder it does nothing."""
    return _NOTHING if _active is None else _active.span(name)


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Send the spans of all threads to a recorder; the block ends when it has seen its steps."""
    global _active
    assert _active is None  # spans belong to one recorder
    _active = recorder
    try:
        yield recorder
    except FinishedError:
        pass
    finally:
        _active = None


class FinishedError(Exception):
    """A recorder has seen the steps it was made for; leaves the training loop."""


class Recorder:
    """Adds up where time goes, over `steps` optimizer steps after `warmup` others.

    Spans of the thread that made the recorder nest, and time counts for the innermost one. On a GPU they are
    pairs of events on the current stream, read when all is over: the host never waits, and a span includes
    the time for which the device idled in it. Spans of other threads are the host's seconds there.

    Args:
        device: Where the step runs.
        steps: How many steps to record; then the loop is left.
        warmup: Steps before these.
        annotate: Name the spans in a trace of `torch.profiler` too.
        on_begin: Called when warm-up is over; for counters that only grow.
    """

    def __init__(
        self,
        device: torch.device,
        steps: int,
        warmup: int,
        *,
        annotate: bool = False,
        on_begin: Callable[[], None] = lambda: None,
    ):
        self.steps, self._warmup, self._annotate, self._on_begin = steps, warmup, annotate, on_begin
        self._cuda = device if device.type == "cuda" else None
        self._thread = threading.get_ident()
        self._stack: list[str] = []
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []  # from here on it is this span's time
        self._lock = threading.Lock()
        self._elsewhere: dict[str, float] = defaultdict(float)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._seen, self._began, self.seconds = 0, 0.0, 0.0

    def span(self, name: str) -> AbstractContextManager[None]:
        """See `record`."""
        if threading.get_ident() == self._thread:
            return _Span(self, name, self._annotate)
        return _ThreadSpan(self, name, self._annotate, self._cuda is not None and name in ON_DEVICE)

    def enter(self, name: str) -> None:
        """Begin a span."""
        if name == STEP and not self._stack and self._seen == self._warmup:
            self._begin()
        self._stack.append(name)
        self._mark()

    def exit(self, name: str) -> None:
        """End a span.

        Raises:
            FinishedError: It was the last step.
        """
        self._stack.pop()
        self._mark()
        if name == STEP and not self._stack:
            self._seen += 1
            if self._seen == self._warmup + self.steps:
                self._synchronize()
                self.seconds = time.perf_counter() - self._began
                raise FinishedError

    def _begin(self) -> None:
        self._synchronize()
        self._marks.clear()
        with self._lock:
            self._elsewhere.clear()
            self._pending.clear()
        self._on_begin()
        self._began = time.perf_counter()

    def _synchronize(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self._cuda)

    def _mark(self) -> None:
        now: float | torch.cuda.Event
        if self._cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((self._stack[-1] if self._stack else BETWEEN, now))

    def add(self, name: str, seconds: float) -> None:
        """Count the time of a span in another thread."""
        with self._lock:
            self._elsewhere[name] += seconds

    def add_events(self, name: str, start: torch.cuda.Event, end: torch.cuda.Event) -> None:
        """Count the device's time of a span in another thread, once it is over."""
        with self._lock:
            self._pending.append((name, start, end))

    def per_step(self) -> dict[str, float]:
        """Seconds of each span per step, the rest of the step as `step`."""
        return self._mean(self._timeline())

    def per_step_elsewhere(self) -> dict[str, float]:
        """Seconds per step of spans in other threads, summed over these."""
        with self._lock:
            sums = dict(self._elsewhere)
            for name, start, end in self._pending:
                end.synchronize()
                sums[name] = sums.get(name, 0.0) + start.elapsed_time(end) / 1e3
        return self._mean(sums)

    def _mean(self, sums: dict[str, float]) -> dict[str, float]:
        return {name: seconds / self.steps for name, seconds in sums.items()}

    def _timeline(self) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for (name, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if isinstance(start, float) or isinstance(end, float):
                sums[name] += end - start  # type: ignore[operator]
            else:
                sums[name] += start.elapsed_time(end) / 1e3
        return sums


class _Span:
    """In the thread of the step."""

    __slots__ = ("_function", "_name", "_recorder")

    def __init__(self, recorder: Recorder, name: str, annotate: bool):
        self._recorder, self._name = recorder, name
        self._function = torch.profiler.record_function(name) if annotate else None

    def __enter__(self) -> None:
        self._recorder.enter(self._name)
        if self._function:
            self._function.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._function:
            self._function.__exit__(kind, error, trace)
        if kind is None:
            self._recorder.exit(self._name)


class _ThreadSpan:
    """In any other thread."""

    __slots__ = ("_event", "_function", "_name", "_on_device", "_recorder", "_started")

    def __init__(self, recorder: Recorder, name: str, annotate: bool, on_device: bool):
        self._recorder, self._name, self._on_device = recorder, name, on_device
        self._function = torch.profiler.record_function(name) if annotate else None

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        if self._on_device:
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()
        if self._function:
            self._function.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._function:
            self._function.__exit__(kind, error, trace)
        if self._on_device:
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            self._recorder.add_events(self._name, self._event, end)
        else:
            self._recorder.add(self._name, time.perf_counter() - self._started)
