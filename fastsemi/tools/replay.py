"""A step of a run once more, without training: which images it has, and a picture of their views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.run.build import build_stage
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext
from fastsemi.run.images_of_step import StepImage, images_of_step
from fastsemi.stages.base import Stage
from fastsemi.stages.names import StageName

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Views = dict[str, NDArray[np.uint8]]  # of an image, by name; [S, S, 3]


@dataclass(frozen=True)
class Replayed:
    """A step of a stage."""

    images: list[StepImage]
    """All of its images, or those of one micro-batch."""
    drawn: list[tuple[StepImage, Views]]
    """Some of them with their views, augmented as the step has them and not yet mixed."""


def replay(config: Config, name: StageName, step: int, *, micro: int | None, count: int) -> Replayed:
    """What a step of a stage reads.

    Args:
        config: The run.
        name: Which stage.
        step: Which step, from 0.
        micro: Which micro-batch; None for all, of which the first one's images are drawn.
        count: How many images of each role are drawn, at most.

    Raises:
        UserError: The run has no such stage, step or micro-batch; an image is broken.
    """
    if name not in config.stages:
        raise UserError(f"{config.output} has no stage {name}; give one of {', '.join(config.stages)}")
    if count < 1:
        raise UserError(f"--count {count} draws nothing; give 1 or more")
    run = RunContext(config)
    try:
        stage = build_stage(run, name, fresh=True)
        total, parts = stage.schedule.total_steps, stage.config.micro_batches
        if not 0 <= step < total:
            raise UserError(f"step {step} is not within the {total} of {name}; give 0 to {total - 1}")
        if micro is not None and not 0 <= micro < parts:
            raise UserError(f"--micro {micro} is not within the {parts} of {name}; give 0 to {parts - 1}")
        images = list(images_of_step(stage, step, micro))
        drawn = [pair for role in stage.roles for pair in _views(run, stage, role, step, micro or 0, count)]
    finally:
        run.close()
    return Replayed(images, drawn)


def _views(
    run: RunContext, stage: Stage, name: str, step: int, micro: int, count: int
) -> list[tuple[StepImage, Views]]:
    role = stage.roles[name]
    size = role.stream.image_size_at(step)
    with run.data.load(role.images, [role.stream.plan(step, micro)], image_size=size) as loader:
        loaded = next(loader)
    batch = run.views.to_device(loaded)
    views = {
        view.name.lower(): run.views.augment(batch, v).cpu().numpy()
        for v, view in enumerate(role.stream.views_at(step))
    }
    return [
        (StepImage(name, micro, role.images.source.name(int(i))), {view: of[b] for view, of in views.items()})
        for b, i in enumerate(loaded.plan.ids[:count])
    ]


def draw(replayed: Replayed, path: Path) -> None:
    """Draw the views as PNG: one row an image."""
    rows = replayed.drawn
    columns = max(len(views) for _, views in rows)
    size = (2.2 * columns + 0.4, 2.3 * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for line, (image, views) in zip(axes, rows, strict=True):
        for axis, (view, pixels) in zip(line, views.items(), strict=False):
            axis.imshow(pixels, interpolation="nearest")
            title = f"{image.role}: {view}\n{Path(image.name).name}"
            axis.set_title(title, fontsize=7, parse_math=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)
