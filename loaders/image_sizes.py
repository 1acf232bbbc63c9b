"""The side of the views by step, where a stage begins with smaller ones.

Sources: Touvron et al., "Fixing the train-test resolution discrepancy" (NeurIPS 2019); Tan and Le,
"EfficientNetV2: smaller models and faster training" (ICML 2021), whose progressive learning this is without
its growing regularisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSizes:
    """Sides of the views of a stage, one after the other, each for an equal share of its steps."""

    sides: tuple[int, ...]
    """In pixels, in their order."""
    steps: int
    """Steps of the stage."""

    def at(self, step: int) -> int:
        """Side of the views of a step, in pixels; a step beyond the end has the last one."""
        count = len(self.sides)
        return self.sides[min(step * count // self.steps, count - 1)]

    def spans(self, steps: range) -> Iterator[tuple[int, range]]:
        """Consecutive steps cut where the side changes: each side with its steps, none of them empty."""
        first = steps.start
        for step in steps:
            if step + 1 == steps.stop or self.at(step + 1) != self.at(step):
                yield self.at(step), range(first, step + 1)
                first = step + 1
