"""Deals the global batch to the processes, and seeds the device's draws of each part.

A global batch is cut into `micro_batches` parts. Part m of every step belongs to process m mod (number of
processes), and what is drawn for it depends on the seed, the step and m alone: any number of processes that
divides the parts sees the same images, views and masks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastsemi.common.spans import record
from fastsemi.loaders.plan.philox import words
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.stream import Stream
from fastsemi.parallel import processes

DEVICE_STREAM = 0xD0  # counter word of the draws that seed the device's generator


def micro_batches(count: int) -> range:
    """Which of the `count` micro-batches of a global batch are this process's."""
    return range(processes.rank(), count, processes.world())


def plans(stream: Stream, steps: range, count: int) -> Iterator[PlannedBatch]:
    """What this process reads of a stream, micro-batch by micro-batch.

    Args:
        stream: The order of the images and their views.
        steps: From the next step to the end.
        count: Micro-batches of a global batch.
    """
    for step in steps:
        for micro in micro_batches(count):
            with record("plan"):
                plan = stream.plan(step, micro)
            yield plan


def seed_device(seed: int, step: int, micro: int) -> None:
    """Seed masks and drop path of a micro-batch, whatever ran before it.

    Args:
        seed: Of the run.
        step: Optimizer step.
        micro: Which micro-batch of its global batch.
    """
    word = words(seed, step, [micro], DEVICE_STREAM, 2)[0]
    number = int(word[0]) << 31 | int(word[1]) >> 1
    # Not torch.manual_seed, which also asks for devices that nothing runs on: most of a millisecond.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
