"""The settings of the threshold rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fastsemi.common.errors import UserError

RuleName = Literal["fixed", "flexmatch", "freematch", "softmatch", "sst"]


@dataclass(frozen=True)
class FlexMatchConfig:
    """Curriculum pseudo labels of FlexMatch; its highest threshold is semi.threshold."""

    warmup: bool = True
    """Compare a class with the images that have no confident pseudo label yet, while they are more."""


@dataclass(frozen=True)
class FreeMatchConfig:
    """Self-adaptive thresholds of FreeMatch; semi.threshold is not used."""

    momentum: float = 0.999
    """Momentum of the averages, lambda."""
    fairness: float = 0.01
    """Weight of the fairness term, w_f; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if not 0 <= self.momentum < 1:
            raise UserError(f"semi.freematch.momentum is {self.momentum}; it must lie in [0, 1)")
        if not 0 <= self.fairness < math.inf:
            raise UserError(f"semi.freematch.fairness is {self.fairness}; it must be finite and not negative")


@dataclass(frozen=True)
class SSTConfig:
    """Self-adaptive thresholds of SST; semi.threshold holds during the first pass over the images."""

    cutoff: float = 0.5
    """C: less confident pseudo labels do not count for the threshold of their class."""
    factor: float = 0.9
    """S: the threshold is this share of the mean confidence of those that count."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if not 0 <= self.cutoff < 1:
            raise UserError(f"semi.sst.cutoff is {self.cutoff}; it must lie in [0, 1)")
        if not 0 < self.factor <= 1:
            raise UserError(f"semi.sst.factor is {self.factor}; it must lie in (0, 1]")


@dataclass(frozen=True)
class SoftMatchConfig:
    """Soft weights of SoftMatch; semi.threshold is not used."""

    momentum: float = 0.999
    """Momentum of the averages, m."""
    sigmas: float = 2.0
    """How many times narrower the Gaussian is than its measured deviation: 2 as in the authors' code; the
    paper's equation has 1."""
    align: bool = True
    """Uniform alignment: weigh confidences as if all classes were predicted equally often."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if not 0 <= self.momentum < 1:
            raise UserError(f"semi.softmatch.momentum is {self.momentum}; it must lie in [0, 1)")
        if not 0 < self.sigmas < math.inf:
            raise UserError(f"semi.softmatch.sigmas is {self.sigmas}; it must be positive and finite")
