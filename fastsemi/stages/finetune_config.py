"""The settings of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastsemi.common.schedule import Duration
from fastsemi.loaders.plan.draws import AugmentConfig
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.stages.stage_config import LabelledStageConfig


@dataclass(frozen=True)
class FinetuneConfig(LabelledStageConfig):
    """Supervised fine-tuning. The defaults are table 12 of the paper, ViT-B with 10 % of the labels."""

    section = "finetune"

    length: Duration = Duration("100 epochs")
    batch: int = 512
    base_lr: float = 2.5e-4
    layer_decay: float = 0.65
    spread_ratio: int = 0
    """Unlabelled images per labelled one that are learnt from too, by the labels that label spreading gives
    them on the pixels or on the features of the frozen network, whichever does better in cross-validation; 0
    for none."""
    spread_keep: float = 0.5
    """Fraction of each class that is used of them, the most confident ones."""
    drop_path: float = 0.1
    """Largest drop-path rate; it grows linearly with depth."""
    label_smoothing: float = 0.1
    """s in (1 - s) * one-hot + s / C."""
    mix: MixConfig = field(default_factory=MixConfig)
    """Mixup and cutmix."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the images."""
    ema: float = 0.0
    """Momentum of an average of the weights, which is then the stage's result; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        super().__post_init__()
        self.require_fractions("drop_path", "label_smoothing", "ema")
        self.require("spread_ratio", self.spread_ratio >= 0, "be 0 or more")
        self.require("spread_keep", 0 < self.spread_keep <= 1, "lie in (0, 1]")
