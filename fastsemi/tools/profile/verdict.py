"""What limits a job and what would help, from measured figures alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Bound = Literal["loader", "compute", "balanced"]

_APART = 1.15  # rates within this factor count as equal
_WORTH = 1.05  # least predicted gain of an advice
_SPARE = 1.05  # what feeds a step should be a little faster than it
_MOST_READERS = 64
COMPUTE = ("augment", "mix", "teacher", "student", "loss", "backward", "optimizer", "ema", "copy", "step")


@dataclass(frozen=True)
class Figures:
    """Rates in images/s of the stage's main stream."""

    job: float
    """The real job."""
    step: float
    """The step with batches in memory."""
    loader: float
    """The loader with nobody training."""
    decode: float
    """The loader with the files' bytes in memory."""
    read: float
    """Reading alone."""
    threads: int
    """Decoding threads (`loader.threads`)."""
    cores: int
    """CPU cores of this process."""
    readers: int
    """Images read at the same time."""
    shared_threads: bool
    """Whether the threads that decode also read."""
    prefetch: int
    """Batches under way (`loader.prefetch`)."""
    on_gpu: bool
    """Whether the step runs on a GPU; elsewhere step and loader share the cores."""
    step_threads: int | None = None
    """Threads that a step on a CPU computes with; None for all cores."""
    wait: float = 0.0
    """Fraction of the job's time in which the step waited for data."""
    decode_share: float | None = None
    """Part of decoding in decoding and resizing; None where the engine cannot tell."""
    raw: bool = False
    """Whether images are stored as pixels."""
    spans: Mapping[str, float] = field(default_factory=dict)
    """Seconds per step of the step alone, by span."""
    compiled: bool = True
    """Whether the networks are compiled."""
    precision_advice: str | None = None
    """The number format that the hardware would be faster with."""
    wasted: float = 0.0
    """Fraction of the student's samples that are rejected but computed."""


@dataclass(frozen=True)
class Advice:
    """A change of settings."""

    what: str
    images_per_s: float | None
    """The job's predicted rate; None where it cannot be predicted from what was measured."""


@dataclass(frozen=True)
class Verdict:
    """What limits the job."""

    bound: Bound
    text: str
    advice: tuple[Advice, ...]


def rounded(value: float) -> str:
    """A number of three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def predicted_loader(f: Figures) -> float:
    """The loader's rate as its parts allow; parts that share threads take turns, others overlap."""
    if f.shared_threads:
        return 1 / (1 / f.read + 1 / f.decode)
    return min(f.read, f.decode)


def predicted_job(f: Figures) -> float:
    """The job's rate as loader and step allow, and on a CPU also the cores that they share."""
    rate = min(f.loader, f.step)
    if f.on_gpu:
        return rate
    decoding = min(f.threads, f.cores) / f.decode  # core seconds per image
    training = min(f.step_threads or f.cores, f.cores) / f.step
    return min(rate, f.cores / (training + decoding))


def _changed(
    f: Figures, *, threads: int | None = None, readers: int | None = None, faster: float = 1
) -> Figures:
    """The figures with other settings, calibrated by what was measured: `faster` is a gain in decoding."""
    threads, readers = threads or f.threads, readers or f.readers
    working = min(threads, f.cores) / min(f.threads, f.cores)
    new = replace(
        f,
        threads=threads,
        readers=readers,
        decode=f.decode * working * faster,
        read=f.read * readers / f.readers,
    )
    if f.shared_threads and threads != f.threads:
        new = replace(new, read=f.read * threads / f.threads)
    new = replace(new, loader=f.loader * predicted_loader(new) / predicted_loader(f))
    return replace(new, job=_job(f, new))


def _job(f: Figures, new: Figures) -> float:
    """The measured rate, moved on as far as other figures predict, and no further than a part gives."""
    return min(f.job * predicted_job(new) / predicted_job(f), new.step, new.loader)


def judge(f: Figures) -> Verdict:
    """Say what limits the job, what each part could give, and which settings would help by how much."""
    if f.loader * _APART < f.step:
        return _loader_bound(f)
    if f.step * _APART < f.loader:
        return _compute_bound(f)
    advice = _worth([_more_threads(f), *_storage(f, slow_reads=False)], f)
    rest = _listed(advice) if advice else "a gain needs both to be faster"
    return Verdict("balanced", f"balanced: {_rates(f)}; {rest}{_uneven(f)}", advice)


def _worth(advice: Iterable[Advice | None], f: Figures) -> tuple[Advice, ...]:
    """The advice that would be noticed, or whose gain cannot be told."""
    return tuple(a for a in advice if a and (a.images_per_s is None or a.images_per_s >= _WORTH * f.job))


def _listed(advice: Iterable[Advice]) -> str:
    return ", or ".join(a.what + _prediction(a) for a in advice)


def _loader_bound(f: Figures) -> Verdict:
    slow_reads = f.read * _APART < f.decode
    more = _more_readers(f) if slow_reads else _more_threads(f)
    advice = _worth([more, *_storage(f, slow_reads)], f)
    cause = ""
    if slow_reads:
        cause = f" because reading gives {rounded(f.read)} (decoding could give {rounded(f.decode)})"
    rest = _listed(advice) or "no setting measured here feeds it, so more or faster cores are needed"
    return Verdict("loader", f"loader-bound: {_rates(f)}{cause}; {rest}", advice)


def _more_threads(f: Figures) -> Advice | None:
    """Threads that decode need a core each."""
    enough = math.ceil(f.threads * _SPARE * f.step / f.loader)
    threads = min(enough, f.cores)
    if threads <= f.threads:
        return None
    new = _changed(f, threads=threads)
    what = f"loader.threads {threads} instead of {f.threads}"
    return Advice(what, new.job)


def _more_readers(f: Figures) -> Advice | None:
    """Threads that wait for a disk need no core."""
    enough = math.ceil(f.readers * _SPARE * min(f.step, f.decode) / f.read)
    readers = min(enough, _MOST_READERS)
    if readers <= f.readers:
        return None
    new = _changed(f, threads=readers if f.shared_threads else None, readers=readers)
    what = f"loader.threads {readers} instead of {f.threads} (threads that wait for a disk need no core)"
    if not f.shared_threads and readers > f.prefetch:
        what += f" with loader.prefetch {readers} instead of {f.prefetch}"
    return Advice(what, new.job)


def _storage(f: Figures, slow_reads: bool) -> list[Advice]:
    """Other ways to store the images."""
    if slow_reads:
        new = replace(f, read=math.inf, loader=f.loader * f.decode / predicted_loader(f))
        what = "the images on a disk that keeps up, or packed (fastsemi data beton)"
        return [Advice(what, _job(f, new))]
    if f.raw or f.decode_share is None or f.decode_share >= 1:
        return []
    new = _changed(f, faster=1 / (1 - f.decode_share))
    return [Advice("raw beton (fastsemi data beton --mode raw), if the disk keeps up,", new.job)]


def _compute_bound(f: Figures) -> Verdict:
    parts = sorted(((f.spans.get(name, 0.0), name) for name in COMPUTE), reverse=True)
    total = sum(seconds for seconds, _ in parts)
    shares = ", ".join(f"{s / total:.0%} {name}" for s, name in parts[:3] if s) if total else ""
    head = f"compute-bound: {_device(f)} takes {rounded(f.step)} images/s at most, the loader could give "
    head += f"{rounded(f.loader)}" + (f"; the step's time is {shares}" if shares else "")
    advice = []
    if f.wasted > 0 and total:
        student = (f.spans.get("student", 0.0) + f.spans.get("backward", 0.0)) / total
        advice.append(Advice("semi.skip_rejected true", f.job / (1 - f.wasted * student)))
    if f.precision_advice:
        advice.append(Advice(f"precision {f.precision_advice}", None))
    if not f.compiled:
        advice.append(Advice("compile.enabled true", None))
    if not f.on_gpu:  # decoding takes the step's cores
        advice += _storage(f, slow_reads=False)
    found = _worth(advice, f)
    rest = f"; {_listed(found)}" if found else ""
    gain = f"bring at most {rounded(f.step)}" if f.step > _WORTH * f.job else "bring nothing"
    return Verdict("compute", f"{head}{rest}; a faster loader could {gain}{_uneven(f)}", found)


def _uneven(f: Figures) -> str:
    """A loader that is fast enough on average can still be late."""
    if not f.on_gpu or f.wait < 0.1:
        return ""
    more = 2 * f.prefetch
    return (
        f"; the step still waited for data {f.wait:.0%} of the time: loader.prefetch {more} instead of "
        f"{f.prefetch} would even out slow batches"
    )


def _rates(f: Figures) -> str:
    return f"{_device(f)} could take {rounded(f.step)} images/s, the loader gives {rounded(f.loader)}"


def _device(f: Figures) -> str:
    return "the GPU" if f.on_gpu else "the step"


def _prediction(advice: Advice) -> str:
    if advice.images_per_s is None:
        return " may be faster"
    return f" would give about {rounded(advice.images_per_s)}"
