"""Stage 3: semi-supervised fine-tuning with an EMA teacher and pseudo mixup (sections 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastsemi.data import Data
from fastsemi.errors import UserError
from fastsemi.kernels.reference.mix import MixMode, MixWeights
from fastsemi.loaders.plan import AugmentConfig, View
from fastsemi.loaders.stream import MixConfig, Stream
from fastsemi.schedule import Duration
from fastsemi.stages.base import Ratio, Role, Stage, StageConfig, StepOutput
from fastsemi.stages.compaction import Compaction, skips_rejected
from fastsemi.stages.finetune import labelled_role, mix_labelled
from fastsemi.teacher import EMATeacher
from fastsemi.views import DeviceBatch, Views


@dataclass(frozen=True)
class SemiConfig(StageConfig):
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
    threshold: float = 0.5
    """Least confidence of a pseudo label that counts, tau."""
    momentum: float = 0.9999
    """Momentum of the teacher, m; 0 is FixMatch."""
    mixing: MixMode = "prob"
    """Mixing of unlabelled images: none, pseudo, pseudo_plus or prob (probabilistic pseudo mixup)."""
    mix: MixConfig = field(default_factory=MixConfig)
    """Mixup and cutmix of unlabelled images; with mixing prob an alpha only says whether it is on."""
    labelled_mix: MixConfig = field(default_factory=MixConfig)
    """Mixup and cutmix of labelled images."""
    drop_path: float = 0.1
    """Largest drop-path rate of the student."""
    skip_rejected: bool | None = None
    """Keep rejected samples out of the student; null: yes, unless it has batch norm."""
    label_smoothing: float = 0.1
    """s in (1 - s) * one-hot + s / C, for labels and pseudo labels."""
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
        self.require_fractions("drop_path", "label_smoothing", "momentum")
        self.require("threshold", 0 <= self.threshold <= 1, "lie in [0, 1], as confidences do")
        self.require("loss_weight", 0 <= self.loss_weight < math.inf, "be finite and not negative")
        if self.mixing != "none" and not (self.mix.mixup or self.mix.cutmix):
            raise UserError(
                "semi.mix turns both mixup and cutmix off; set semi.mixing to none to mix nothing"
            )
        self.require("unlabelled_ratio", self.unlabelled_ratio >= 1, "be at least 1")


@dataclass(frozen=True)
class MixedBatch:
    """Unlabelled images as the student sees them, and what it should say."""

    images: Tensor  # [n, 3, S, S], n <= Nu where rejected samples are left out
    label: Tensor  # [n] pseudo label of the image
    other: Tensor  # [n] pseudo label of the image mixed in
    lam: Tensor  # [n] weight of `label`
    keep: Tensor  # [n] whether the sample counts


class Semi(Stage):
    """EMA-Teacher; with momentum 0 it is FixMatch."""

    name = "semi"

    def __init__(self, config: SemiConfig, model: nn.Module, data: Data, views: Views, *, seed: int):
        self.config: SemiConfig = config
        self._views = views
        self.roles = self.build_roles(config, data, seed)
        self.model = self.network = model.to(views.device)
        self._skip = skips_rejected(config.skip_rejected, model)
        self.teacher = EMATeacher(self.model, config.momentum)

    @staticmethod
    def build_roles(config: SemiConfig, data: Data, seed: int) -> dict[str, Role]:
        """Unlabelled images in two views, labelled ones in one."""
        images = data.unlabelled
        unlabelled = Stream(
            images.index,
            images.ids,
            config.batch * config.unlabelled_ratio,
            config.micro_batches,
            {View.WEAK: config.weak, View.STRONG: config.strong},
            config.mix if config.mixing != "none" else MixConfig(),
            seed,
            data.config.image_size,
            "unlabelled",
        )
        return {
            "unlabelled": Role(images, unlabelled),
            "labelled": labelled_role(config, config.augment, config.labelled_mix, data, seed),
        }

    def loss(self, batch: Mapping[str, DeviceBatch]) -> StepOutput:
        """L = Ll + mu * Lu (section 2.3)."""
        unlabelled = batch["unlabelled"]
        label, confidence = self.pseudo_label(unlabelled)  # [Nu], [Nu]
        images, weights = self.mix(unlabelled, confidence)  # [Nu, 3, S, S]; eq. 4, 5
        kept = Compaction(weights.keep) if self._skip else None
        labelled = mix_labelled(batch["labelled"], self._views)  # [Nl, 3, S, S]
        mixed = self.targets(images, label, weights, kept)  # [n, 3, S, S]

        logits = self.network(torch.cat([labelled.images, mixed.images]))  # [Nl + n, C]
        labelled_logits, unlabelled_logits = logits.split([len(labelled.label), len(mixed.label)])
        smoothing, kernels = self.config.label_smoothing, self._views.kernels
        labelled_loss = labelled.loss(labelled_logits, smoothing, kernels).mean()
        unlabelled_loss = self.unlabelled_loss(unlabelled_logits, mixed, len(label))
        loss = labelled_loss + self.config.loss_weight * unlabelled_loss
        metrics = {
            "loss": Ratio(loss.detach(), 1),
            "loss_labelled": Ratio(labelled_loss.detach(), 1),
            "loss_unlabelled": Ratio(unlabelled_loss.detach(), 1),
            **self.pseudo_label_metrics(label, confidence, weights.keep, unlabelled.labels),
        }
        return StepOutput(loss, metrics)

    def pseudo_label(self, batch: DeviceBatch) -> tuple[Tensor, Tensor]:
        """The teacher's label of the weak view and its confidence: y = argmax p, o = max p; [Nu], [Nu]."""
        weak = self._views.normalise(self._views.augment(batch, 0), batch.plans[0])
        return self._views.kernels.pseudo_label(self.teacher(weak))

    def mix(self, batch: DeviceBatch, confidence: Tensor) -> tuple[Tensor, MixWeights]:
        """Mix strong views; prob: lam_i = o_i / (o_i + o_j), o*_i = max(o_i, o_j) (eq. 3, 4, 5)."""
        strong, config = self._views.augment(batch, 1), self.config
        return self._views.mix_unlabelled(batch, strong, config.mixing, confidence, config.threshold)

    def targets(
        self, images: Tensor, label: Tensor, weights: MixWeights, kept: Compaction | None = None
    ) -> MixedBatch:
        """Mixed images with the pseudo labels of both their parts; of all samples, or of the kept ones."""
        parts = (images, label, label[weights.partner], weights.lam, weights.keep)
        return MixedBatch(*(kept.select(part) for part in parts) if kept else parts)

    def unlabelled_loss(self, logits: Tensor, mixed: MixedBatch, count: int) -> Tensor:
        """Eq. 2 on mixed images: [o* >= tau] CE(x, y), divided by all Nu = `count` images."""
        losses = self._views.kernels.two_label_cross_entropy(
            logits,
            mixed.label,
            mixed.other,
            mixed.lam,
            smoothing=self.config.label_smoothing,
            weight=mixed.keep.float(),
        )
        return losses.sum() / count

    def pseudo_label_metrics(
        self, label: Tensor, confidence: Tensor, keep: Tensor, truth: Tensor
    ) -> dict[str, Ratio]:
        """How many samples count, and how good pseudo labels are where the truth is known; for the log."""
        known = truth >= 0
        confident = (confidence >= self.config.threshold) & known
        right = (confident & (label == truth)).sum()
        return {
            "acceptance": Ratio(keep.sum(), keep.numel()),
            "confidence": Ratio(confidence.sum(), confidence.numel()),
            "pseudo_label_accuracy": Ratio(right, confident.sum()),
            "pseudo_label_recall": Ratio(right, known.sum()),
        }

    def after_update(self) -> None:
        """Eq. 1."""
        self.teacher.update(self.model)

    def eval_models(self) -> dict[str, nn.Module]:
        """Student and teacher."""
        return {"student": self.model, "teacher": self.teacher.model}

    def result(self) -> nn.Module:
        """The teacher."""
        return self.teacher.model

    def extra_state(self) -> dict[str, Any]:
        """The teacher."""
        return {"teacher": self.teacher.model.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the teacher."""
        self.teacher.model.load_state_dict(state["teacher"])
