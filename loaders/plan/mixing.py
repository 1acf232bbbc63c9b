"""How two images of a batch are mixed: the settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastsemi.common.errors import UserError


@dataclass(frozen=True)
class MixConfig:
    """Mixing of two images: mixup or cutmix, with probability 1/2 each when both are on."""

    mixup: float = 0.8
    """alpha of mixup's Beta distribution; 0 for no mixup."""
    cutmix: float = 1.0
    """alpha of cutmix's Beta distribution; 0 for no cutmix."""

    def __post_init__(self) -> None:
        """Refuse negative alphas."""
        for name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= value < np.inf:
                raise UserError(f"{name} is {value}; give a positive alpha, or 0 to turn it off")
