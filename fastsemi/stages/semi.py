"""Stage 3: semi-supervised fine-tuning with an EMA teacher and pseudo mixup (sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fastsemi.common.spans import record
from fastsemi.loaders.data import Data
from fastsemi.models.patch_drop import see
from fastsemi.models.projected import Projected, classifier_of, split
from fastsemi.stages.alignment import create_alignment
from fastsemi.stages.base import Ratio, Role, Stage, StepOutput
from fastsemi.stages.compaction import Compaction, skips_rejected
from fastsemi.stages.contrast import contrastive_loss
from fastsemi.stages.finetune import mix_labelled
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.stages.label_memory import LabelMemory, NoLabelMemory
from fastsemi.stages.label_prior import create_prior
from fastsemi.stages.logit_adjustment import create_adjustment
from fastsemi.stages.mixed_batch import MixedBatch
from fastsemi.stages.pseudo_label_metrics import pseudo_label_metrics
from fastsemi.stages.pseudo_mixup import Pairs, pair
from fastsemi.stages.roles import labelled_role, unlabelled_role, with_image_sizes
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.stages.teacher import EMATeacher
from fastsemi.stages.thresholds.base import PseudoLabels
from fastsemi.stages.thresholds.rules import create_rule


class Semi(Stage):
    """EMA-Teacher; with momentum 0 it is FixMatch."""

    name = "semi"

    def __init__(self, config: SemiConfig, model: nn.Module, data: Data, views: Views, *, seed: int):
        self.config: SemiConfig = config
        self._views = views
        self.roles = self.build_roles(config, data, seed)
        self.model = self.network = (Projected(model) if config.contrast else model).to(views.device)
        self._skip = not config.contrast and skips_rejected(config.skip_rejected, model)
        self._drop = config.keep_tokens < 1
        self.teacher = EMATeacher(self.model, config.momentum, config.teacher_dtype, config.merge_tokens)
        ids = self.roles["unlabelled"].stream.ids
        rule = create_rule(config, classes=len(data.classes), images=len(ids), highest_id=int(ids.max()))
        self.rule = rule.to(views.device)
        self.alignment = create_alignment(config, data).to(views.device)
        self.adjustment = create_adjustment(config.logit_adjustment, data).to(views.device)
        self.prior = create_prior(config, self.roles["unlabelled"].stream, len(data.classes)).to(views.device)
        kept = LabelMemory(int(ids.max()), len(data.classes)) if config.label_passes > 1 else NoLabelMemory()
        self.memory = kept.to(views.device)
        self._taught = True  # whether the teacher labels the batches of this step
        self._learners: dict[str, Any] = {
            **{"rule": self.rule, "alignment": self.alignment, "memory": self.memory, "prior": self.prior}
        }

    @staticmethod
    def build_roles(config: SemiConfig, data: Data, seed: int) -> dict[str, Role]:
        """Unlabelled images in two views, labelled ones in one."""
        unlabelled = unlabelled_role(config, data, seed)
        restart = int(unlabelled.stream.steps_per_pass) if config.drop_last else 0
        labelled = labelled_role(config, config.augment, config.labelled_mix, data, seed, restart=restart)
        return with_image_sizes(config, {"unlabelled": unlabelled, "labelled": labelled})

    def loss(self, batch: Mapping[str, DeviceBatch]) -> StepOutput:
        """L = Ll + mu * Lu (section 2.3), of Nl labelled and Nu unlabelled images."""
        unlabelled, smoothing, kernels = batch["unlabelled"], self.config.label_smoothing, self._views.kernels
        pseudo, trusted, keys = self._labels(unlabelled)  # y_i, o_i; [o_i >= tau]; each [Nu]
        pairs = self.pair(unlabelled, pseudo, trusted)  # j, lam_i, [o*_i >= tau], eq. 4 and 5; each [Nu]
        kept = Compaction(pairs.weight > 0, least=int(self._drop)) if self._skip else None
        mixed = self.mix(unlabelled, pseudo, pairs)  # eq. 3; [Nu, 3, S, S]
        labelled = mix_labelled(batch["labelled"], self._views)  # eq. 3; [Nl, 3, S, S]
        mixed = mixed.select(kept)  # [n, 3, S, S], n <= Nu

        with record("student"):
            output = see(self.network, labelled.images, mixed.images, drop=self._drop)  # [Nl + n, C]
        logits, queries = (output, output) if keys is None else split(output)
        labelled_logits, unlabelled_logits = logits.split([len(labelled.label), len(mixed.label)])
        labelled_loss = labelled.losses(self.adjustment(labelled_logits), smoothing, kernels).mean()
        losses = mixed.losses(unlabelled_logits, self.config.pseudo_label_smoothing, kernels)
        unlabelled_loss = losses.sum() / len(trusted)  # eq. 2
        loss = labelled_loss + self.config.loss_weight * unlabelled_loss
        parts = {"loss_labelled": labelled_loss, "loss_unlabelled": unlabelled_loss}
        further = self.rule.loss(unlabelled_logits, mixed.weight > 0)
        if further is not None:
            loss = loss + further
        if keys is not None:
            heat = self.config.contrast_temperature
            contrast = contrastive_loss(queries[-len(keys) :], keys, mixed.lam, pairs, heat, kernels)
            loss = loss + self.config.contrast * contrast
            parts["loss_contrast"] = contrast
        metrics = {name: Ratio(value.detach(), 1) for name, value in {"loss": loss, **parts}.items()}
        of_labels = pseudo_label_metrics(pseudo, trusted, pairs.weight, unlabelled.labels, logits.shape[1])
        return StepOutput(loss, metrics | of_labels)

    def pseudo_label(self, batch: DeviceBatch) -> PseudoLabels:
        """The teacher's label of the weak view and its confidence: y = argmax p, o = max p; [Nu], [Nu]."""
        return self._teach(batch)[0]

    def _labels(self, batch: DeviceBatch) -> tuple[PseudoLabels, Tensor, Tensor | None]:
        """Pseudo labels, how much each counts by the threshold rule [Nu], and projections [Nu, P] or None."""
        self._taught = len(batch.plans) == len(self.roles["unlabelled"].stream.views)
        if not self._taught:
            assert isinstance(self.memory, LabelMemory)
            pseudo, there = self.memory.recall(batch.ids)
            return pseudo, self.rule.weights(pseudo) * there, None
        pseudo, keys = self._teach(batch)
        trusted = self.rule.weights(pseudo)
        self.rule.observe(pseudo)
        self.memory.note(pseudo)
        return pseudo, trusted, keys

    def _teach(self, batch: DeviceBatch) -> tuple[PseudoLabels, Tensor | None]:
        """Pseudo labels, and the projections [Nu, P] for a contrastive term."""
        assert len(batch.plans) == len(self.roles["unlabelled"].stream.views), "a step without the weak view"
        weak = self._views.normalise(self._views.augment(batch, 0), batch.erase[0])
        with record("teacher"):
            output = self.teacher(weak)
            logits, keys = split(output) if self.config.contrast else (output, None)
            logits = self.prior(self.alignment(logits / self.config.temperature), batch.ids)
            return PseudoLabels(*self._views.kernels.pseudo_label(logits), logits, batch.ids), keys

    def pair(self, batch: DeviceBatch, pseudo: PseudoLabels, trusted: Tensor) -> Pairs:
        """Pairs of strong views, their weights and what they count (section 3)."""
        assert batch.mix is not None  # the stream of unlabelled images always plans it
        return pair(self.config.mixing, pseudo.confidence, trusted, batch.mix.partner, batch.mix.lam)

    def mix(self, batch: DeviceBatch, pseudo: PseudoLabels, pairs: Pairs) -> MixedBatch:
        """Mix strong views, and pseudo labels by the pixels of each that are left (eq. 3)."""
        assert batch.mix is not None
        mix = replace(batch.mix, partner=pairs.partner, lam=pairs.lam)
        images, lam = self._views.mix(self._views.augment(batch, -1), mix, batch.erase[-1])
        return MixedBatch(images, pseudo.label, pseudo.label[pairs.partner], lam, pairs.weight)

    def after_update(self, skipped: Tensor | None = None) -> None:
        """Eq. 1, and what the threshold rule and others learnt from the step."""
        self.teacher.update(self.model, skipped)
        self.prior.update()
        if self._taught:
            for learner in (self.rule, self.alignment, self.memory):
                learner.update()

    def followers(self) -> list[nn.Module]:
        """The teacher."""
        return self.teacher.networks()

    def eval_models(self) -> dict[str, nn.Module]:
        """Student and teacher."""
        return {"student": classifier_of(self.model), "teacher": classifier_of(self.teacher.model)}

    def result(self) -> nn.Module:
        """The teacher."""
        return classifier_of(self.teacher.model)

    def extra_state(self) -> dict[str, Any]:
        """The teacher, and the states of threshold rule, alignment, memory and prior where they have any."""
        states = {name: learner.state_dict() for name, learner in self._learners.items()}
        return {"teacher": self.teacher.model.state_dict(), **{k: v for k, v in states.items() if v}}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `extra_state` gave."""
        self.teacher.model.load_state_dict(state["teacher"])
        for name, learner in self._learners.items():
            learner.load_state_dict(state.get(name, {}))
        self.teacher.refresh()
