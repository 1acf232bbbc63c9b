"""FlexMatch: thresholds that follow how much of each class has been learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsemi.parallel import processes
from fastsemi.stages.thresholds.base import PseudoLabels, ThresholdRule
from fastsemi.stages.thresholds.settings import FlexMatchConfig


class FlexMatch(ThresholdRule):
    """Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling" (2021).

    Each unlabelled image remembers the last pseudo label that had `o > tau`. With sigma(c) images of class c
    (eq. 5), beta(c) = sigma(c) / max sigma (eq. 6), during warm-up over max(max sigma, images without one)
    (eq. 11), and the threshold of class c is `tau * M(beta(c))`, M(x) = x / (2 - x) (eq. 7, 12).

    Args:
        threshold: tau.
        config: Options.
        classes: C.
        images: How many unlabelled images there are.
        highest_id: The largest of their ids.
    """

    remembered: Tensor  # int32 [ids], -1 for none
    counts: Tensor  # float32 [C] sigma
    _fresh: Tensor  # int32 [ids + 1] labels noted in this step, -1 for none

    def __init__(self, threshold: float, config: FlexMatchConfig, classes: int, images: int, highest_id: int):
        super().__init__()
        self.threshold, self.config, self.images = threshold, config, images
        empty = torch.full((highest_id + 1,), -1, dtype=torch.int32)
        self.register_buffer("remembered", empty)
        self.register_buffer("counts", torch.zeros(classes))
        # The last row takes what is not confident, so that no row need be selected on the host.
        self.register_buffer("_fresh", torch.full((highest_id + 2,), -1, dtype=torch.int32), persistent=False)

    def thresholds(self) -> Tensor:
        """T(c), float32 [C]."""
        most = self.counts.max()
        if self.config.warmup:
            most = torch.maximum(most, self.images - self.counts.sum())
        beta = self.counts / most.clamp(min=1)
        return self.threshold * beta / (2 - beta)

    def weights(self, labels: PseudoLabels) -> Tensor:
        """[o >= T(label)], [B]."""
        return (labels.confidence >= self.thresholds()[labels.label]).float()

    @torch.no_grad()
    def observe(self, labels: PseudoLabels) -> None:
        """Note the confident labels; the largest one where an image comes twice in a step."""
        rows = torch.where(labels.confidence > self.threshold, labels.ids, len(self._fresh) - 1)
        self._fresh.scatter_reduce_(0, rows, labels.label.to(self._fresh.dtype), "amax")

    @torch.no_grad()
    def update(self) -> None:
        """Remember what was noted in the step, and count anew."""
        if processes.world() > 1:
            torch.distributed.all_reduce(self._fresh, torch.distributed.ReduceOp.MAX)
        fresh = self._fresh[:-1]
        self.remembered.copy_(torch.where(fresh >= 0, fresh, self.remembered))
        counts = torch.zeros(len(self.counts) + 1, device=self.counts.device)
        slots = (self.remembered + 1).long()
        self.counts.copy_(counts.scatter_add_(0, slots, torch.ones_like(slots, dtype=counts.dtype))[1:])
        self._fresh.fill_(-1)
