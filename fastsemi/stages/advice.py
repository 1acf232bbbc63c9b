"""Warnings of the semi stage: a teacher that stands still, a threshold that decides nothing."""

from __future__ import annotations

import math

from fastsemi.stages.semi_config import SemiConfig
from fastsemi.stages.stage_config import StageConfig

STANDING = 0.5  # share of its first weights that a teacher still has at the end
FOLLOWS = 10  # times that a better teacher forgets by a factor of e
PATIENCE = 3  # log lines in a row


def slow_teacher(config: SemiConfig, steps: int) -> str | None:
    """Says that the teacher's momentum is too high for so few steps, and which would do; else None.

    After n steps of eq. 1 the teacher still has m**n of the weights that it began with.

    Args:
        config: Of the stage.
        steps: How many it has.
    """
    left = config.momentum**steps
    if left <= STANDING:
        return None
    better = math.floor(100 * max(0.0, 1 - FOLLOWS / steps)) / 100
    return (
        f"semi.momentum {config.momentum:g} is high for {steps} steps: at the end {left:.0%} of the teacher "
        f"is still what it began with; semi.momentum {better:g} would follow the student"
    )


def unused_label_passes(config: SemiConfig, steps: int, per_pass: float) -> str | None:
    """Says that the teacher labels every batch, as the stage ends within the first pass; else None.

    Args:
        config: Of the stage.
        steps: How many it has.
        per_pass: Steps of a pass over the unlabelled images.
    """
    if config.label_passes == 1 or steps - 1 >= per_pass:
        return None
    return (
        f"semi.label_passes {config.label_passes} changes nothing: the {steps} steps end within the first "
        "pass over the unlabelled images"
    )


def cheaper_steps(config: StageConfig) -> str | None:
    """Says which settings make some steps cheaper than the dearest, which costs are reckoned with; else None.

    Args:
        config: Of a stage.
    """
    grows, reuses = len(getattr(config, "image_sizes", ())) > 1, getattr(config, "label_passes", 1) > 1
    names = [name for name, on in (("image_sizes", grows), ("label_passes", reuses)) if on]
    if not names:
        return None
    which = " and ".join(f"{config.section}.{name}" for name in names)
    return (
        f"{which} make{'s' * (len(names) == 1)} some steps cheaper than the dearest, which is reckoned with"
    )


class AcceptanceAlarm:
    """Notices that no pseudo label passes the threshold, or every one does, for a while; says so once."""

    def __init__(self) -> None:
        self._none = self._all = 0

    def __call__(self, acceptance: float | None) -> str | None:
        """What to tell the user, if anything.

        Args:
            acceptance: Share of the pseudo labels since the last time that passed, in [0, 1]; None where
                there are none.
        """
        if acceptance is None or max(self._none, self._all) >= PATIENCE:
            return None
        self._none = self._none + 1 if acceptance == 0 else 0
        self._all = self._all + 1 if acceptance == 1 else 0
        if self._none == PATIENCE:
            return (
                "no pseudo label has passed the threshold for a while, so unlabelled images teach nothing; "
                "lower semi.threshold or semi.temperature, or fine-tune longer"
            )
        if self._all == PATIENCE:
            return (
                "every pseudo label has passed the threshold for a while, wrong ones too; raise "
                "semi.threshold or semi.temperature"
            )
        return None
