"""The settings `train`: what a run does besides its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """What a run does besides its stages."""

    select: Literal["best", "last"] = "best"
    """Which network a stage leaves: the best of all that were evaluated, student or teacher, by its top-1 on
    the evaluation images; or the last one (the teacher, the average)."""
    baseline: Literal["auto", "none"] = "auto"
    """Judge simple classifiers (logistic regression, SVM, nearest neighbours, prototypes, label spreading) on
    the same labels first, on the pixels and, with given weights, on the frozen features; auto: yes, unless
    there are more than 5,000 labels or 200 classes."""
