"""What each stage of a run needs: steps, learning rates, memory, operations, hours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastsemi.common.errors import UserError
from fastsemi.common.schedule import CosineSchedule
from fastsemi.loaders.data import Data
from fastsemi.loaders.stream import Stream
from fastsemi.parallel.rendezvous import require_split
from fastsemi.parallel.settings import Strategy
from fastsemi.run.config import Config
from fastsemi.run.memory import MemoryEstimate, measure_stage
from fastsemi.run.order import STAGE_CLASSES
from fastsemi.stages.advice import cheaper_steps
from fastsemi.stages.base import make_schedule
from fastsemi.stages.names import StageName
from fastsemi.tools.estimate.gpus import Gpu
from fastsemi.tools.estimate.rates import find_rate, rate_wanted
from fastsemi.training.strategy import choose_strategy

Origin = Literal["measured", "derived", "given"]


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    origin: Origin
    how: str
    """In a few words."""


@dataclass(frozen=True)
class StagePlan:
    """The course of a stage."""

    name: StageName
    streams: dict[str, Stream]
    schedule: CosineSchedule

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.schedule.total_steps

    @property
    def loaded(self) -> int:
        """Images that are decoded for a step, of all streams."""
        return sum(stream.batch for stream in self.streams.values())

    @property
    def counted(self) -> int:
        """Images of a step that rates count: unlabelled ones in the semi stage."""
        return next(iter(self.streams.values())).batch

    def rates(self) -> tuple[float, float, float]:
        """Learning rate of the first step, the largest, and of the last step."""
        schedule = self.schedule
        around = (max(0, schedule.warmup_steps - 1), schedule.warmup_steps)
        return schedule.lr(0), max(map(schedule.lr, around)), schedule.lr(schedule.total_steps - 1)


def plan_stage(config: Config, name: StageName, data: Data) -> StagePlan:
    """Streams and learning rates of a stage, built as training builds them; the first batches are planned.

    Raises:
        UserError: Data and settings do not fit.
    """
    settings = getattr(config, name)
    roles = STAGE_CLASSES[name].build_roles(settings, data, config.seed)
    streams = {role: value.stream for role, value in roles.items()}
    for stream in streams.values():
        stream.plan(0, 0)
    return StagePlan(name, streams, make_schedule(settings, next(iter(streams.values()))))


@dataclass(frozen=True)
class Cluster:
    """Where a run is to go."""

    gpu: Gpu
    gpus: int
    nodes: int
    utilisation: float
    """Fraction of the vendor's peak that a step reaches where no rate is known."""
    rate: float | None = None
    """Images/s of one GPU, given by the user."""
    results: tuple[Path, ...] = ()
    """Files that `python -m benchmarks.steps --json` wrote."""

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if self.gpus < 1 or not 1 <= self.nodes <= self.gpus or self.gpus % self.nodes:
            raise UserError(
                f"{self.gpus} GPUs cannot be spread over {self.nodes} nodes evenly; give a --gpus that "
                "--nodes divides"
            )
        if not 0 < self.utilisation <= 1:
            raise UserError(f"--utilisation is {self.utilisation}; it must lie in (0, 1]")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UserError(f"--images_per_s is {self.rate}; it must be positive and finite")


@dataclass(frozen=True)
class StageCost:
    """What a stage needs on a job's GPUs."""

    plan: StagePlan
    gpu: Gpu
    precision: str
    """Number format: float32, tf32, bfloat16 or float16."""
    memory: dict[Strategy, MemoryEstimate]
    chosen: Strategy
    """What `distributed.strategy` means here."""
    micro_batches: int
    """Micro-batches that each GPU runs one after the other in a step."""
    step_flops: Figure
    rate: Figure
    """Images/s of the job: unlabelled ones in the semi stage."""
    loader: Figure
    """Images/s that each node must decode."""
    hours: Figure
    note: str | None = None
    """What makes the figures an upper bound, if anything does."""

    @property
    def room(self) -> int:
        """Bytes of the GPU that the chosen strategy leaves; negative where it does not fit."""
        return self.gpu.memory - self.memory[self.chosen].total


def cost_stage(config: Config, plan: StagePlan, job: Cluster, data: Data) -> StageCost:
    """The cost of a stage.

    Hours are of training steps alone: no evaluation, no start, no checkpoints, and as if GPUs never waited
    for data or for each other.

    Raises:
        UserError: The GPUs cannot share the micro-batches evenly; the line names the nearest numbers.
    """
    name, settings = plan.name, getattr(config, plan.name)
    require_split(name, settings.micro_batches, settings.batch, job.gpus)
    needs = measure_stage(config, name, data, dtype=job.gpu.dtype(config))
    strategies: tuple[Strategy, ...] = ("ddp", "fsdp")
    memory = {strategy: needs.memory(strategy, job.gpus) for strategy in strategies}
    wanted = "ddp" if config.compile.cuda_graphs else config.distributed.strategy  # as in training
    chosen = choose_strategy(wanted, memory["ddp"].total, job.gpu.memory)
    flops = needs.step_flops
    rate = _rate(config, plan, job, flops)
    seconds = plan.counted / rate.value
    loader = Figure(plan.loaded / seconds / job.nodes, "derived", "images of a step over its time, per node")
    hours = Figure(plan.steps * seconds / 3600, "derived", f"steps times the {rate.origin} time of a step")
    return StageCost(
        plan,
        job.gpu,
        job.gpu.precision(config),
        memory,
        chosen,
        settings.micro_batches // job.gpus,
        Figure(flops, "derived", "counted by PyTorch; a multiply-add is two"),
        rate,
        loader,
        hours,
        cheaper_steps(settings),
    )


def _rate(config: Config, plan: StagePlan, job: Cluster, flops: int) -> Figure:
    if job.rate is not None:
        return Figure(job.rate * job.gpus, "given", "--images_per_s times the GPUs")
    measured = find_rate(config, plan.name, job.gpu, job.results)
    if measured:
        how = f"{measured.images_per_s:,.0f} images/s of one {measured.gpu} ({measured.file}) times the GPUs"
        return Figure(measured.images_per_s * job.gpus, "measured", how)
    seconds = flops / (job.gpus * job.utilisation * job.gpu.peak(config))
    peak = f"{job.gpu.peak(config) / 1e12:g} TFLOP/s"
    how = f"operations over {job.utilisation:.0%} (assumed) of the vendor's {peak}"
    if job.results:
        files = " or ".join(map(str, job.results))
        said = ", ".join(f"{key} {value}" for key, value in rate_wanted(config, plan.name, job.gpu).items())
        how += f"; no row of {files} on one {job.gpu.label} is of {said}, nothing rejected"
    return Figure(plan.counted / seconds, "derived", how)
