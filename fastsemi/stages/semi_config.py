"""The settings of the semi-supervised stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from fastsemi.common.errors import UserError
from fastsemi.common.schedule import Duration
from fastsemi.loaders.plan.draws import AugmentConfig
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.stages.stage_config import LabelledStageConfig
from fastsemi.stages.thresholds.settings import (
    FlexMatchConfig,
    FreeMatchConfig,
    RuleName,
    SoftMatchConfig,
    SSTConfig,
)

MixMode = Literal["none", "pseudo", "pseudo_plus", "prob"]
TeacherDtype = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class SemiConfig(LabelledStageConfig):
    """Semi-supervised fine-tuning. The defaults are table 13 of the paper, ViT-B with 10 % of the labels."""

    section = "semi"

    length: Duration = Duration("100 epochs")
    """How long to train; an epoch is one pass over the unlabelled images."""
    batch: int = 128
    """Labelled images per step, Nl."""
    base_lr: float = 1e-3
    layer_decay: float = 0.75
    unlabelled_ratio: int = 5
    """Unlabelled images per labelled one: Nu = ratio * Nl."""
    loss_weight: float = 5.0
    """Weight of the unlabelled loss, mu."""
    label_passes: int = 1
    """Passes over the unlabelled images that a pseudo label serves: the teacher labels the images of every so
    many-th pass, and in the passes between they keep their label and confidence; 1: it labels each time."""
    threshold: float = 0.5
    """Least confidence of a pseudo label that counts, tau."""
    threshold_rule: RuleName = "fixed"
    """What makes a pseudo label count: fixed (the paper's tau), flexmatch, freematch, softmatch or sst."""
    flexmatch: FlexMatchConfig = field(default_factory=FlexMatchConfig)
    """Options of the rule flexmatch."""
    freematch: FreeMatchConfig = field(default_factory=FreeMatchConfig)
    """Options of the rule freematch."""
    softmatch: SoftMatchConfig = field(default_factory=SoftMatchConfig)
    """Options of the rule softmatch."""
    sst: SSTConfig = field(default_factory=SSTConfig)
    """Options of the rule sst."""
    align: Literal["none", "uniform", "labelled"] = "none"
    """Distribution alignment of the pseudo labels: as if all classes were as frequent (uniform), or as
    frequent as among the labels."""
    align_momentum: float = 0.99
    """Momentum of the average prediction that alignment compares with."""
    temperature: float = 1.0
    """The teacher's logits are divided by it before they become pseudo labels and confidences: below 1 they
    are surer, above 1 less so."""
    spread_weight: float = 0.0
    """How far pseudo labels lean on label spreading over the teacher's features, 0 for not at all. It starts
    at this weight and falls to half of it until labels are spread anew."""
    spread_every: Duration = Duration("1 epochs")
    """How often labels are spread, among the images of the steps until the next time."""
    contrast: float = 0.0
    """Weight of a contrastive term: the student finds the teacher's view of the same image among those of the
    batch; 0 for none."""
    contrast_temperature: float = 0.2
    """Divides the similarities of the contrastive term."""
    momentum: float = 0.9999
    """Momentum of the teacher, m; 0 is FixMatch."""
    teacher_dtype: TeacherDtype = "fp32"
    """Weights that the teacher runs with: fp32, or a copy in bf16 or fp16 of its fp32 average, which is then
    cast once a step and not in each pass."""
    merge_tokens: int = 0
    """Tokens that each block of the teacher, a ViT, merges with similar ones while it makes pseudo labels, at
    most half of the patches; 0 for none. The teacher is evaluated without."""
    mixing: MixMode = "prob"
    """Mixing of unlabelled images: none, pseudo, pseudo_plus or prob (probabilistic pseudo mixup)."""
    mix: MixConfig = field(default_factory=MixConfig)
    """Mixup and cutmix of unlabelled images; with mixing prob an alpha only says whether it is on."""
    labelled_mix: MixConfig = field(default_factory=MixConfig)
    """Mixup and cutmix of labelled images."""
    drop_path: float = 0.1
    """Largest drop-path rate of the student."""
    keep_tokens: float = 1.0
    """Share of the patches of each unlabelled image that the student sees, of a ViT, drawn anew each time; 1
    for all. The teacher sees all, and so does the student of labelled images."""
    skip_rejected: bool | None = None
    """Keep rejected samples out of the student; null: yes, unless it has batch norm."""
    label_smoothing: float = 0.1
    """s in (1 - s) * one-hot + s / C, for labels and pseudo labels."""
    pseudo_smoothing: Literal["always", "mixed"] = "always"
    """Whether label_smoothing holds for all pseudo labels, or only for those of mixed images: with mixing
    none they are then one-hot, as in equation 2."""
    student_start: Literal["average", "weights"] = "average"
    """Where fine-tuning kept an average of its weights (finetune.ema): whether the student starts from the
    average, as the teacher does, or from the weights themselves."""
    weak: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(color_jitter=0.4, randaugment="", erase=0.0)
    )
    """The view that the teacher labels."""
    strong: AugmentConfig = field(default_factory=AugmentConfig)
    """The view that the student learns from."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of labelled images."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        super().__post_init__()
        self.require_fractions("drop_path", "label_smoothing", "momentum", "align_momentum")
        self.require("temperature", 0 < self.temperature < math.inf, "be positive and finite")
        self.require("threshold", 0 <= self.threshold <= 1, "lie in [0, 1], as confidences do")
        self.require("keep_tokens", 0 < self.keep_tokens <= 1, "lie in (0, 1]")
        self.require("merge_tokens", self.merge_tokens >= 0, "not be negative")
        self._check_label_passes()
        self.require("loss_weight", 0 <= self.loss_weight < math.inf, "be finite and not negative")
        if self.mixing != "none" and not (self.mix.mixup or self.mix.cutmix):
            raise UserError(
                "semi.mix turns both mixup and cutmix off; set semi.mixing to none to mix nothing"
            )
        self.require("spread_weight", 0 <= self.spread_weight <= 1, "lie in [0, 1]")
        self.require("spread_every", self.spread_every.value > 0, "be more than nothing")
        self.require("contrast", 0 <= self.contrast < math.inf, "be finite and not negative")
        self.require(
            "contrast_temperature", 0 < self.contrast_temperature < math.inf, "be positive and finite"
        )
        self.require("unlabelled_ratio", self.unlabelled_ratio >= 1, "be at least 1")

    def _check_label_passes(self) -> None:
        self.require("label_passes", self.label_passes >= 1, "be at least 1")
        aligned = self.threshold_rule == "softmatch" and self.softmatch.align
        for needs, cure in (
            (self.contrast, "semi.contrast to 0"),
            (aligned, "semi.softmatch.align to false"),
        ):
            rule = f"be 1, or set {cure}: it needs what the teacher says of the weak view each time"
            self.require("label_passes", self.label_passes == 1 or not needs, rule)

    @property
    def pseudo_label_smoothing(self) -> float:
        """s of pseudo labels."""
        hard = self.mixing == "none" and self.pseudo_smoothing == "mixed"
        return 0.0 if hard else self.label_smoothing
