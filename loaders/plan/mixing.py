"""How two images of a batch are mixed: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fastsemi.common.errors import UserError


@dataclass(frozen=True)
class MixConfig:
    """Mixing of two images: mixup or cutmix, with probability 1/2 each when both are on."""

    mixup: float = 0.8
    """alpha of mixup's Beta distribution; 0 for no mixup."""
    cutmix: float = 1.0
    """alpha of cutmix's Beta distribution; 0 for no cutmix."""
    box: Literal["exact", "even"] = "exact"
    """Sides of cutmix's box: exact, as in timm since 0.9, or even, as before: half of it, rounded down, on
    both sides of the centre."""
    per_batch: bool = False
    """Draw one weight, one choice of mixup or cutmix and one centre of the box for a whole micro-batch."""
    partners: Literal["random", "reversed"] = "random"
    """Who is mixed with whom in a micro-batch: a random permutation, or the first with the last, the second
    with the last but one, and so on."""

    def __post_init__(self) -> None:
        """Refuse negative alphas."""
        for name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= value < np.inf:
                raise UserError(f"{name} is {value}; give a positive alpha, or 0 to turn it off")
