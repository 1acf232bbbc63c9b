"""A run without data, weights and memory: networks, optimizer and plan of each stage."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from fastsemi.common.precision import Precision, select_device
from fastsemi.parallel import processes
from fastsemi.run.config import Config
from fastsemi.run.fit_batches import fit_batches
from fastsemi.run.memory import MemoryEstimate, measure_stage
from fastsemi.run.start_weights import are_here, check_network, start_weights
from fastsemi.stages.names import StageName
from fastsemi.tools.estimate.cost_table import gib
from fastsemi.tools.estimate.sizes import open_data
from fastsemi.tools.estimate.stages import StagePlan, plan_stage


@dataclass(frozen=True)
class DryStage:
    """What would be trained in a stage."""

    plan: StagePlan
    parameters: int
    trained: int
    """Parameters that the optimizer changes."""
    groups: int
    """Parameter groups of the optimizer: by layer, with and without weight decay."""
    memory: MemoryEstimate


def dry_run(
    config: Config, stages: Sequence[StageName], options: Namespace, by_hand: Set[str] | None = None
) -> tuple[list[DryStage], str]:
    """Build each stage as training would, but on tensors without memory.

    Args:
        config: The run.
        stages: Which of its stages.
        options: train_images, classes, unlabelled_images: what is known of data that is not here.
        by_hand: Keys of batches that stay as they are, as of `fit_batches`.

    Returns:
        The stages, and where the numbers of images come from, in words.

    Raises:
        UserError: What training would refuse: settings, model, data that does not fill a batch.
    """
    dtype, fused, where = _format(config)
    data, sizes = open_data(config, options)
    config = fit_batches(config, data, stages, by_hand)
    start = start_weights(config.model) if are_here(config.model) else None
    result = []
    for name in stages:
        check_network(config, name, len(data.classes), start)
        plan = plan_stage(config, name, data)
        needs = measure_stage(config, name, data, dtype=dtype, fused_attention=fused)
        result.append(DryStage(plan, needs.weights, sum(needs.groups), len(needs.groups), needs.memory()))
    return result, f"{sizes}; memory on {where} in {str(dtype).removeprefix('torch.')}"


def _format(config: Config) -> tuple[torch.dtype, bool, str]:
    """Autocast's type, whether attention is fused, and where: on a GPU, unless the CPU is asked for."""
    device = select_device(processes.local_device(config.device))
    if device.type == "cpu" and config.device == "auto":
        assumed = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}
        return assumed.get(config.precision, torch.bfloat16), True, "a GPU"
    precision = Precision.select(config.precision, device)
    return precision.dtype, precision.fused_attention, "this CPU" if device.type == "cpu" else "this GPU"


def show(stages: Sequence[DryStage], sizes: str, console: Console) -> None:
    """Print what would be trained."""
    console.print(f"dry run, nothing is trained; numbers of images: {sizes}", soft_wrap=True)
    table = Table("", *(stage.plan.name for stage in stages))
    for column in table.columns[1:]:
        column.justify = "right"
    for label, values in _lines(stages):
        table.add_row(label, *values)
    console.print(table)


def _lines(stages: Sequence[DryStage]) -> list[tuple[str, list[str]]]:
    first, peak, last = zip(*(stage.plan.rates() for stage in stages), strict=True)
    roles = list(dict.fromkeys(role for stage in stages for role in stage.plan.streams))
    streams = {role: [stage.plan.streams.get(role) for stage in stages] for role in roles}
    label = {"pretrain": "images"}
    return [
        ("parameters", [f"{stage.parameters:,}" for stage in stages]),
        ("of these trained", [f"{stage.trained:,}" for stage in stages]),
        ("optimizer groups", [f"{stage.groups}" for stage in stages]),
        *(
            (label.get(role, f"{role} images"), [f"{len(s.ids):,}" if s else "-" for s in found])
            for role, found in streams.items()
        ),
        *(
            (f"{label.get(role, role)} a step", [f"{s.batch:,}" if s else "-" for s in found])
            for role, found in streams.items()
        ),
        ("steps", [f"{stage.plan.steps:,}" for stage in stages]),
        ("learning rate, first step", [f"{rate:.3g}" for rate in first]),
        ("learning rate, peak", [f"{rate:.3g}" for rate in peak]),
        ("learning rate, last step", [f"{rate:.3g}" for rate in last]),
        ("weights and gradients", [gib(s.memory.parameters + s.memory.gradients) for s in stages]),
        ("AdamW", [gib(stage.memory.optimizer) for stage in stages]),
        ("teacher or average", [gib(stage.memory.teacher) for stage in stages]),
        ("activations", [gib(s.memory.activations + s.memory.weight_casts) for s in stages]),
        ("memory of one device, in all", [gib(stage.memory.total) for stage in stages]),
    ]
