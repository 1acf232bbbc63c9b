"""Stage 3: semi-supervised fine-tuning with an EMA teacher and pseudo mixup (sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastsemi.common.spans import record
from fastsemi.kernels.reference.mix import MixWeights
from fastsemi.loaders.data import Data
from fastsemi.loaders.plan.draws import View
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.stream import Stream
from fastsemi.stages.base import Ratio, Role, Stage, StepOutput
from fastsemi.stages.compaction import Compaction, skips_rejected
from fastsemi.stages.finetune import labelled_role, mix_labelled
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.stages.teacher import EMATeacher
from fastsemi.stages.thresholds.base import PseudoLabels
from fastsemi.stages.thresholds.rules import create_rule, mixed_weights, mixing_inputs


@dataclass(frozen=True)
class MixedBatch:
    """Unlabelled images as the student sees them, and what it should say."""

    images: Tensor  # [n, 3, S, S], n <= Nu where rejected samples are left out
    label: Tensor  # [n] pseudo label of the image
    other: Tensor  # [n] pseudo label of the image mixed in
    lam: Tensor  # [n] weight of `label`
    weight: Tensor  # [n] how much the sample counts, 0 for rejected ones


class Semi(Stage):
    """EMA-Teacher; with momentum 0 it is FixMatch."""

    name = "semi"

    def __init__(self, config: SemiConfig, model: nn.Module, data: Data, views: Views, *, seed: int):
        self.config: SemiConfig = config
        self._views = views
        self.roles = self.build_roles(config, data, seed)
        self.model = self.network = model.to(views.device)
        self._skip = skips_rejected(config.skip_rejected, model)
        self.teacher = EMATeacher(self.model, config.momentum, config.teacher_dtype)
        ids = self.roles["unlabelled"].stream.ids
        rule = create_rule(config, classes=len(data.classes), images=len(ids), highest_id=int(ids.max()))
        self.rule = rule.to(views.device)

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
        pseudo = self.pseudo_label(unlabelled)  # [Nu]
        trusted = self.rule.weights(pseudo)  # [Nu] in [0, 1]; the paper's: [o >= tau]
        self.rule.observe(pseudo)
        images, mix, weight = self.mix(unlabelled, pseudo, trusted)  # [Nu, 3, S, S]; eq. 4, 5
        kept = Compaction(weight > 0) if self._skip else None
        labelled = mix_labelled(batch["labelled"], self._views)  # [Nl, 3, S, S]
        mixed = self.targets(images, pseudo.label, mix, weight, kept)  # [n, 3, S, S]

        with record("student"):
            logits = self.network(torch.cat([labelled.images, mixed.images]))  # [Nl + n, C]
        labelled_logits, unlabelled_logits = logits.split([len(labelled.label), len(mixed.label)])
        smoothing, kernels = self.config.label_smoothing, self._views.kernels
        labelled_loss = labelled.loss(labelled_logits, smoothing, kernels).mean()
        unlabelled_loss = self.unlabelled_loss(unlabelled_logits, mixed, len(weight))
        loss = labelled_loss + self.config.loss_weight * unlabelled_loss
        further = self.rule.loss(unlabelled_logits, mixed.weight > 0)
        if further is not None:
            loss = loss + further
        metrics = {
            "loss": Ratio(loss.detach(), 1),
            "loss_labelled": Ratio(labelled_loss.detach(), 1),
            "loss_unlabelled": Ratio(unlabelled_loss.detach(), 1),
            **self.pseudo_label_metrics(pseudo, trusted, weight, unlabelled.labels),
        }
        return StepOutput(loss, metrics)

    def pseudo_label(self, batch: DeviceBatch) -> PseudoLabels:
        """The teacher's label of the weak view and its confidence: y = argmax p, o = max p; [Nu], [Nu]."""
        weak = self._views.normalise(self._views.augment(batch, 0), batch.erase[0])
        with record("teacher"):
            logits = self.teacher(weak)
            return PseudoLabels(*self._views.kernels.pseudo_label(logits), logits, batch.ids)

    def mix(
        self, batch: DeviceBatch, pseudo: PseudoLabels, trusted: Tensor
    ) -> tuple[Tensor, MixWeights, Tensor]:
        """Mix strong views; prob: lam_i = o_i / (o_i + o_j), o*_i = max(o_i, o_j) (eq. 3, 4, 5).

        Returns:
            [Nu, 3, S, S], how they were mixed, and how much each counts, [Nu].
        """
        strong, mode = self._views.augment(batch, 1), self.config.mixing
        inputs = mixing_inputs(mode, pseudo, trusted)
        images, mixed = self._views.mix_unlabelled(batch, strong, mode, *inputs)
        return images, mixed, mixed_weights(mode, pseudo, trusted, mixed)

    def targets(
        self, images: Tensor, label: Tensor, mix: MixWeights, weight: Tensor, kept: Compaction | None = None
    ) -> MixedBatch:
        """Mixed images with the pseudo labels of both their parts; of all samples, or of the kept ones."""
        parts = (images, label, label[mix.partner], mix.lam, weight)
        return MixedBatch(*(kept.select(part) for part in parts) if kept else parts)

    def unlabelled_loss(self, logits: Tensor, mixed: MixedBatch, count: int) -> Tensor:
        """Eq. 2 on mixed images: [o* >= tau] CE(x, y), divided by all Nu = `count` images."""
        losses = self._views.kernels.two_label_cross_entropy(
            logits,
            mixed.label,
            mixed.other,
            mixed.lam,
            smoothing=self.config.label_smoothing,
            weight=mixed.weight,
        )
        return losses.sum() / count

    def pseudo_label_metrics(
        self, pseudo: PseudoLabels, trusted: Tensor, weight: Tensor, truth: Tensor
    ) -> dict[str, Ratio]:
        """How much samples count, and how good pseudo labels are where the truth is known; for the log."""
        known = truth >= 0
        confident = (trusted > 0) & known
        right = (confident & (pseudo.label == truth)).sum()
        return {
            "acceptance": Ratio(weight.sum(), weight.numel()),
            "confidence": Ratio(pseudo.confidence.sum(), weight.numel()),
            "pseudo_label_accuracy": Ratio(right, confident.sum()),
            "pseudo_label_recall": Ratio(right, known.sum()),
        }

    def after_update(self, skipped: Tensor | None = None) -> None:
        """Eq. 1, and what the threshold rule learnt from the step."""
        self.teacher.update(self.model, skipped)
        self.rule.update()

    def followers(self) -> list[nn.Module]:
        """The teacher."""
        return self.teacher.networks()

    def eval_models(self) -> dict[str, nn.Module]:
        """Student and teacher."""
        return {"student": self.model, "teacher": self.teacher.model}

    def result(self) -> nn.Module:
        """The teacher."""
        return self.teacher.model

    def extra_state(self) -> dict[str, Any]:
        """The teacher, and the state of the threshold rule where it has one."""
        rule = self.rule.state_dict()
        return {"teacher": self.teacher.model.state_dict(), **({"rule": rule} if rule else {})}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the teacher and the threshold rule."""
        self.teacher.model.load_state_dict(state["teacher"])
        self.rule.load_state_dict(state.get("rule", {}))
        self.teacher.refresh()
