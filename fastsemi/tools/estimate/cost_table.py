"""Costs as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from fastsemi.run.memory import MemoryEstimate
from fastsemi.tools.estimate.stages import Cluster, StageCost

GIB = 2**30


def gib(amount: int) -> str:
    """Bytes in GiB of 1024**3 bytes, or below a tenth of one in MiB."""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB / 10 or not amount else f"{amount / 2**20:.1f} MiB"


def show(costs: list[StageCost], job: Cluster, sizes: str, console: Console) -> None:
    """Print what each stage needs and where each figure comes from."""
    gpu = job.gpu
    console.print(
        f"{job.gpus} x {gpu.label}, {job.nodes} node{'s' * (job.nodes != 1)}; numbers of images: {sizes}",
        soft_wrap=True,
    )
    table = Table("", *(cost.plan.name for cost in costs), "figures are")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for label, values, origin in _lines(costs):
        table.add_row(label, *values, origin)
    console.print(table)
    for cost in costs:
        console.print(f"{cost.plan.name}: {cost.rate.origin} rate: {cost.rate.how}", soft_wrap=True)
        if cost.note:
            console.print(f"{cost.plan.name}: {cost.note}", soft_wrap=True)
        if cost.room < 0:
            console.print(
                f"{cost.plan.name} does not fit: set {cost.plan.name}.micro_batches to a larger divisor of "
                "the batch, or model.activation_checkpointing to true",
                style="bold",
                soft_wrap=True,
            )
    console.print(
        f"{gpu.label}'s {gpu.memory_gb} GB and its peak are the vendor's. Memory leaves 1 GiB and 5 % for "
        "CUDA and fragmentation (assumed). Hours are of training steps alone, without evaluation, and as if "
        "GPUs waited neither for data nor for each other.",
        soft_wrap=True,
    )


def _lines(costs: list[StageCost]) -> list[tuple[str, list[str], str]]:
    """Label, a value for each stage, origin."""
    rates = " / ".join(sorted({cost.rate.origin for cost in costs}))
    return [
        ("images", [_images(cost) for cost in costs], "counted, given or known, see above"),
        ("steps", [f"{cost.plan.steps:,}" for cost in costs], "exact for these images"),
        ("images of a step", [_batch(cost) for cost in costs], "configuration"),
        ("micro-batches a GPU", [f"{cost.micro_batches}" for cost in costs], "configuration"),
        ("memory a GPU, ddp", [gib(cost.memory["ddp"].total) for cost in costs], "derived, traced"),
        ("memory a GPU, fsdp", [gib(cost.memory["fsdp"].total) for cost in costs], "derived, traced"),
        ("strategy", [cost.chosen for cost in costs], "what training takes"),
        ("TFLOP a step", [f"{cost.step_flops.value / 1e12:,.0f}" for cost in costs], "derived, counted"),
        ("images/s", [f"{cost.rate.value:,.0f}" for cost in costs], rates),
        ("images/s a node loads", [f"{cost.loader.value:,.0f}" for cost in costs], "derived from images/s"),
        ("hours", [f"{cost.hours.value:,.1f}" for cost in costs], "derived from images/s"),
    ]


def _images(cost: StageCost) -> str:
    return " + ".join(f"{len(stream.ids):,} {_short(role)}" for role, stream in cost.plan.streams.items())


def _batch(cost: StageCost) -> str:
    return " + ".join(f"{stream.batch:,}" for stream in cost.plan.streams.values())


def _short(role: str) -> str:
    return {"pretrain": "images"}.get(role, role)


def to_json(costs: list[StageCost], job: Cluster, sizes: str) -> dict[str, Any]:
    """All figures; rates, loads and hours with their origin."""
    return {
        "gpu": asdict(job.gpu),
        "gpus": job.gpus,
        "nodes": job.nodes,
        "sizes": sizes,
        "stages": {cost.plan.name: _stage(cost) for cost in costs},
    }


def _stage(cost: StageCost) -> dict[str, Any]:
    first, peak, last = cost.plan.rates()
    return {
        "images": {role: len(stream.ids) for role, stream in cost.plan.streams.items()},
        "batch": {role: stream.batch for role, stream in cost.plan.streams.items()},
        "steps": cost.plan.steps,
        "lr": {"first": first, "peak": peak, "last": last},
        "micro_batches_per_gpu": cost.micro_batches,
        "precision": cost.precision,
        "memory": {strategy: memory_json(m) for strategy, m in cost.memory.items()},
        "strategy": cost.chosen,
        "fits": cost.room >= 0,
        "step_flops": asdict(cost.step_flops),
        "images_per_s": asdict(cost.rate),
        "loader_images_per_s_per_node": asdict(cost.loader),
        "hours": asdict(cost.hours),
        "note": cost.note,
    }


def memory_json(memory: MemoryEstimate) -> dict[str, int]:
    """Parts and total, in bytes."""
    return {**asdict(memory), "total": memory.total}
