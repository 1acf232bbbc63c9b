"""Which images a step of a stage has: their order is planned, so any step can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from fastsemi.common.errors import UserError
from fastsemi.run.context import RunContext
from fastsemi.stages.base import Stage
from fastsemi.training.deal import micro_batches
from fastsemi.training.update import NotFiniteError

_NAMED = 3  # images that an error names


@dataclass(frozen=True)
class StepImage:
    """An image of a step."""

    role: str
    """Which of the stage's streams it comes from: labelled, unlabelled, ..."""
    micro: int
    """Its micro-batch."""
    name: str
    """Its file."""


def images_of_step(stage: Stage, step: int, micro: int | None = None) -> Iterator[StepImage]:
    """The images of a step in their order, of all micro-batches or of one."""
    parts = range(stage.config.micro_batches) if micro is None else (micro,)
    for part in parts:
        for name, role in stage.roles.items():
            for i in role.stream.positions(step, part)[0]:
                yield StepImage(name, part, role.images.source.name(int(i)))


@contextmanager
def naming_images(run: RunContext, stage: Stage) -> Iterator[None]:
    """Adds to the error of a step that is not finite which images it had, and how to see them.

    Raises:
        UserError: In place of `NotFiniteError`.
    """
    try:
        yield
    except NotFiniteError as error:
        mine = micro_batches(stage.config.micro_batches)
        micro = None if error.part is None else mine[error.part]
        names = [image.name for image in islice(images_of_step(stage, error.step, micro), _NAMED)]
        command = f"fastsemi replay {run.folder.path} {error.step} --stage {stage.name}"
        where = "the step" if micro is None else f"micro-batch {micro}"
        raise UserError(
            f"{error}; the images of {where} ({', '.join(names)}, ...) are shown by {command}"
            + ("" if micro is None else f" --micro {micro}")
        ) from error
