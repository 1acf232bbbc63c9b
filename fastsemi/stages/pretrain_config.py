"""The settings of masked-autoencoder pretraining."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastsemi.common.schedule import Duration
from fastsemi.loaders.plan.draws import AugmentConfig
from fastsemi.stages.stage_config import StageConfig


@dataclass(frozen=True)
class PretrainConfig(StageConfig):
    """Masked autoencoder (MAE)."""

    section = "pretrain"

    length: Duration = Duration("800 epochs")
    warmup: Duration = Duration("40 epochs")
    batch: int = 4096
    base_lr: float = 1.5e-4
    min_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    mask_ratio: float = 0.75
    """Fraction of the patches that is hidden."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    as_published: bool = False
    """Initial weights of encoder and decoder, epsilon of the decoder's norms, rounding (down) of the number
    of visible patches and weight decay of the tokens as in MAE's published code."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(area=(0.2, 1.0), randaugment="", erase=0.0)
    )
    """The view that is masked: crop and flip."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        super().__post_init__()
        self.require("mask_ratio", 0 < self.mask_ratio < 1, "lie in (0, 1)")
        for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
            self.require(name, getattr(self, name) >= 1, "be at least 1")
        divides = not (self.decoder_dim % self.decoder_heads or self.decoder_dim % 4)
        self.require(
            "decoder_dim", divides, f"be a multiple of 4 and of decoder_heads ({self.decoder_heads})"
        )
