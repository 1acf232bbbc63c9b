"""Images as the student sees them, and what it should say."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastsemi.kernels.dispatch import Kernels
from fastsemi.stages.compaction import Compaction


@dataclass(frozen=True)
class MixedBatch:
    """Mixed images and the labels of both their parts; of n images."""

    images: Tensor  # [n, 3, S, S]
    label: Tensor  # [n]
    other: Tensor  # [n] label of the image mixed in
    lam: Tensor  # [n] weight of `label`
    weight: Tensor  # [n] how much each counts, 0 for rejected ones

    def select(self, kept: Compaction | None) -> MixedBatch:
        """The samples that enter the student: those kept and few others; None for all."""
        if kept is None:
            return self
        parts = (self.images, self.label, self.other, self.lam, self.weight)
        return MixedBatch(*map(kept.select, parts))

    def losses(self, logits: Tensor, smoothing: float, kernels: Kernels) -> Tensor:
        """weight * CE(x, lam y + (1 - lam) y'), label smoothing included; [n]."""
        return kernels.two_label_cross_entropy(
            logits, self.label, self.other, self.lam, smoothing=smoothing, weight=self.weight
        )
