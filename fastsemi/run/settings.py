"""The settings `train`: what a run does besides its stages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fastsemi.common.errors import UserError
from fastsemi.common.urls import is_url, place
from fastsemi.training.settings import LoggerName


@dataclass(frozen=True)
class TrainConfig:
    """What a run does besides its stages."""

    select: Literal["best", "last"] = "best"
    """Which network a stage leaves: the last one (the teacher, the average), or the best of all that were
    evaluated, student or teacher, by its top-1 on the labelled images that data.labels.validation holds out,
    else on the evaluation images, which flatters it; of equal ones the last, then that of lower loss."""
    keep: int = 2
    """Checkpoints of an unfinished stage that stay: where the last one was damaged, the one before it is
    taken."""
    loggers: tuple[LoggerName, ...] = ("tensorboard",)
    """Where metrics are shown besides metrics.jsonl: tensorboard, wandb (offline unless WANDB_MODE says
    otherwise), mlflow (files in the run directory unless MLFLOW_TRACKING_URI names a server); or none."""
    mirror: str | None = None
    """A URL in a bucket (s3://, gs://, az://) to which the run directory is copied after each checkpoint, in
    the background. A run with an empty output goes on from there."""
    allow_changed: bool = False
    """Go on in a directory that holds a stage with other settings or images; what differs is listed."""
    baseline: Literal["auto", "none"] = "auto"
    """Judge simple classifiers (logistic regression, self-training, SVM, nearest neighbours, prototypes,
    label spreading) on the same labels first, on the pixels and, with given weights, on the frozen features;
    auto: yes, unless there are more than 5,000 labels or 200 classes."""
    calibrate: bool = True
    """Fit a temperature (Guo et al. 2017) for the network in `model/`, so that `predict` is right about as
    often as its confidences say: on the labelled images that data.labels.validation holds out, else on the
    evaluation images."""

    grace_s: float = 30.0
    """Seconds that a signal (Ctrl-C, SIGTERM, ...) leaves to finish the step and save; then the process ends
    in any case, and the last whole checkpoint counts."""
    watchdog_s: float = 600.0
    """Where no step and no batch of an evaluation finishes for so many seconds, what all threads are doing is
    written to `stuck.txt` in the run's folder, and said; the run goes on. 0: never."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.mirror is not None:
            url = str(place(self.mirror))
            if not is_url(url) or url.startswith("http"):
                raise UserError(f"train.mirror is {url}; give a URL of a bucket: s3://, gs:// or az://")
            object.__setattr__(self, "mirror", url)
        if len(set(self.loggers)) < len(self.loggers):
            raise UserError(f"train.loggers names one twice: {', '.join(self.loggers)}; name each once")
        if not 0 <= self.watchdog_s < math.inf:
            raise UserError(
                f"train.watchdog_s is {self.watchdog_s}; it must be 0 (never) or more, and finite"
            )
        if not 0 < self.grace_s < math.inf:
            raise UserError(f"train.grace_s is {self.grace_s}; it must be positive and finite")
        if self.keep < 1:
            raise UserError(f"train.keep is {self.keep}; it must be at least 1")
