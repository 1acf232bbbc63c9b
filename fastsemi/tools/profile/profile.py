"""Profiles a job: where its time goes, what each part gives alone, what limits it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from fastsemi.common.precision import Precision
from fastsemi.run.config import Config
from fastsemi.stages.compaction import skips_rejected
from fastsemi.stages.names import StageName
from fastsemi.tools.profile.ceilings import LoaderCeilings
from fastsemi.tools.profile.job import ProfiledStage, Timing
from fastsemi.tools.profile.verdict import Figures, Verdict, judge

ROUNDS = 3  # of everything in turn, so that a slow minute hits all of it
_LEAST, _MOST = 0.5, 3.0  # seconds of a ceiling in a round
_TRACED_STEPS = 5


@dataclass(frozen=True)
class Profile:
    """What was measured, and what it means."""

    stage: StageName
    images: int
    """Images of the main stream in a step, which images/s refer to."""
    job: Timing
    step: Timing
    figures: Figures
    verdict: Verdict
    engine: str
    device: str
    untrained: bool
    """Whether the classifier was random, and so all pseudo labels accepted."""


def profile(
    config: Config,
    stage: StageName,
    *,
    steps: int,
    warmup: int,
    trace: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Profile:
    """Run a stage of the real job for some steps, then its parts alone.

    The run directory is only read: the network starts from the result of the stage before where it is there.

    Args:
        config: The run.
        stage: Which stage.
        steps: Measured steps.
        warmup: Steps before these.
        trace: Chrome trace to write, of a few more steps.
        say: Called with what is being measured.
    """
    with tempfile.TemporaryDirectory(prefix="fastsemi-profile-") as folder:
        job = ProfiledStage(config, stage, Path(folder))
        try:
            timing, step, rates = _measure(job, steps, warmup, say)
            acceptance = job.metrics().get("acceptance", 1.0)
            if trace:
                say("a trace")
                job.trace(trace, min(steps, _TRACED_STEPS))
            figures = _figures(config, job, timing, step, rates, acceptance)
            return Profile(
                stage,
                job.images,
                timing,
                step,
                figures,
                judge(figures),
                job.engine.name,
                _device(job.run.device),
                job.untrained and stage == "semi",
            )
        finally:
            job.close()


def _measure(
    job: ProfiledStage, steps: int, warmup: int, say: Callable[[str], None]
) -> tuple[Timing, Timing, dict[str, float]]:
    """The job, the step alone, and images/s of loader, decoding and reading alone, in turn."""
    with closing(LoaderCeilings(job.batches, job.roles, job.images, job.trainer.step)) as loader:
        return _rounds(job, loader, steps, warmup, say)


def _rounds(
    job: ProfiledStage, loader: LoaderCeilings, steps: int, warmup: int, say: Callable[[str], None]
) -> tuple[Timing, Timing, dict[str, float]]:
    ceilings = {"loader": loader.loader, "decode": loader.decode, "read": loader.read}
    rounds: dict[str, list[float]] = {name: [] for name in ceilings}
    jobs: list[Timing] = []
    alone: list[Timing] = []
    part = -(-steps // ROUNDS)
    again = job.batches.loader.prefetch + 1  # a loader's first batches may come all at once
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        job.trainer.step = max(job.trainer.step, loader.step)  # images that were not read before
        jobs.append(job.measure(part, max(warmup, again)))
        loader.step = job.trainer.step + job.batches.loader.prefetch
        seconds = min(_MOST, max(_LEAST, jobs[0].wall * part / 2))
        for name, ceiling in ceilings.items():
            rounds[name].append(ceiling(seconds))
        alone.append(job.measure_step(max(2, part // 2), 1))
    return typical(jobs), typical(alone), {name: median(rates) for name, rates in rounds.items()}


def typical(timings: Sequence[Timing]) -> Timing:
    """The round of median length, so that one which other processes disturbed does not count.

    What loader threads do is not bound to a round's steps, as they work ahead: their part of the time is that
    of all rounds.
    """
    middle = sorted(timings, key=lambda t: t.wall)[len(timings) // 2]
    total = sum(t.wall for t in timings)
    names = dict.fromkeys(name for t in timings for name in t.threads)
    threads = {name: sum(t.threads.get(name, 0.0) for t in timings) / total * middle.wall for name in names}
    return replace(middle, steps=sum(t.steps for t in timings), threads=threads)


def _figures(
    config: Config,
    job: ProfiledStage,
    timing: Timing,
    step: Timing,
    rates: dict[str, float],
    acceptance: float,
) -> Figures:
    loader, engine = config.loader, job.engine
    reading = engine.reading(loader.prefetch)
    decode, resize = (timing.threads.get(name, 0.0) for name in ("decode", "resize"))
    best = Precision.select("auto", job.run.device).dtype
    slow = job.run.precision.dtype == torch.float32 and best != torch.float32
    computed = job.stage.name == "semi" and config.semi.skip_rejected is False and not job.untrained
    rejected = 1 - acceptance if computed and skips_rejected(None, job.stage.model) else 0.0
    ratio = config.semi.unlabelled_ratio
    rate = job.images / timing.wall
    # No part is slower alone than with the others: where it looks so, another process has slowed it down.
    whole = max(rate, rates["loader"])
    return Figures(
        job=rate,
        step=max(rate, job.images / step.wall),
        loader=whole,
        decode=max(whole, rates["decode"]),
        read=max(whole, rates["read"]),
        threads=loader.thread_count,
        cores=len(os.sched_getaffinity(0)),
        readers=reading.at_once,
        shared_threads=not reading.apart,
        prefetch=loader.prefetch,
        on_gpu=job.on_gpu,
        step_threads=None if job.on_gpu else torch.get_num_threads(),
        wait=timing.spans.get("wait", 0.0) / timing.wall,
        decode_share=decode / (decode + resize) if resize else None,
        raw=engine.source.is_raw,
        spans=step.spans,
        compiled=config.compile.enabled or not job.on_gpu,
        precision_advice=str(best).removeprefix("torch.").replace("bfloat16", "bf16") if slow else None,
        wasted=rejected * ratio / (1 + ratio),
    )


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
