"""The threshold rules by name, and how they go with pseudo mixup."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fastsemi.kernels.reference.mix import MixWeights
from fastsemi.stages.thresholds.base import PseudoLabels, ThresholdRule
from fastsemi.stages.thresholds.fixed import Fixed
from fastsemi.stages.thresholds.flexmatch import FlexMatch
from fastsemi.stages.thresholds.freematch import FreeMatch
from fastsemi.stages.thresholds.settings import (
    FlexMatchConfig,
    FreeMatchConfig,
    MixMode,
    RuleName,
    SoftMatchConfig,
)
from fastsemi.stages.thresholds.softmatch import SoftMatch


class RuleSettings(Protocol):
    """What the rules need of the stage's settings."""

    @property
    def threshold_rule(self) -> RuleName:
        """Which rule."""
        ...

    @property
    def threshold(self) -> float:
        """tau of `fixed` and `flexmatch`."""
        ...

    @property
    def flexmatch(self) -> FlexMatchConfig:
        """Options of that rule."""
        ...

    @property
    def freematch(self) -> FreeMatchConfig:
        """Options of that rule."""
        ...

    @property
    def softmatch(self) -> SoftMatchConfig:
        """Options of that rule."""
        ...


def create_rule(config: RuleSettings, *, classes: int, images: int, highest_id: int) -> ThresholdRule:
    """The rule that `threshold_rule` names, with its state at the start of training.

    Args:
        config: Settings of the stage.
        classes: Number of classes.
        images: Number of unlabelled images.
        highest_id: The largest of their ids.
    """
    match config.threshold_rule:
        case "fixed":
            return Fixed(config.threshold)
        case "flexmatch":
            return FlexMatch(config.threshold, config.flexmatch, classes, images, highest_id)
        case "freematch":
            return FreeMatch(config.freematch, classes)
        case "softmatch":
            return SoftMatch(config.softmatch, classes)


def mixing_inputs(mode: MixMode, labels: PseudoLabels, weights: Tensor) -> tuple[Tensor, float]:
    """Confidences [B] and threshold for the mixing kernel, so that it mixes as a rule's weights ask.

    In `pseudo_plus` the clean samples are those with a weight above 0; the other modes mix without regard to
    what is kept, and only `prob` looks at the confidence (eq. 4).
    """
    return ((weights > 0).float(), 0.5) if mode == "pseudo_plus" else (labels.confidence, 0.0)


def mixed_weights(mode: MixMode, labels: PseudoLabels, weights: Tensor, mixed: MixWeights) -> Tensor:
    """How much each mixed sample counts, float32 [B].

    In `prob` the weight is that of the more confident one of the two, the sample itself where they are equal:
    with one threshold this is `max(o_i, o_j) >= tau` (eq. 5). In the other modes it is the sample's own.
    """
    if mode != "prob":
        return weights
    own, other = labels.confidence, labels.confidence[mixed.partner]
    return torch.where(own >= other, weights, weights[mixed.partner])
