"""FreeMatch: thresholds that follow the model's confidence, and a fairness term."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsemi.stages.thresholds.base import PseudoLabels, ThresholdRule, blend
from fastsemi.stages.thresholds.settings import FreeMatchConfig


class FreeMatch(ThresholdRule):
    """Wang et al., "FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning" (2023).

    With averages over the steps of the mean confidence, tau (eq. 5), and of the mean prediction, p (eq. 6),
    both 1/C at first, the threshold of class c is `p(c) / max p * tau` (eq. 7).

    Args:
        config: Options.
        classes: C.
    """

    level: Tensor  # float32 [] tau
    prediction: Tensor  # float32 [C] p
    histogram: Tensor  # float32 [C] h, the share of each pseudo label

    def __init__(self, config: FreeMatchConfig, classes: int):
        super().__init__(sums=2 + 2 * classes)
        self.config, self.classes = config, classes
        self.register_buffer("level", torch.tensor(1 / classes))
        self.register_buffer("prediction", torch.full((classes,), 1 / classes))
        self.register_buffer("histogram", torch.full((classes,), 1 / classes))

    def thresholds(self) -> Tensor:
        """tau(c), float32 [C]."""
        return self.prediction / self.prediction.max() * self.level

    def weights(self, labels: PseudoLabels) -> Tensor:
        """[o >= tau(label)], [B]."""
        return (labels.confidence >= self.thresholds()[labels.label]).float()

    def statistics(self, labels: PseudoLabels) -> Tensor:
        """Sums of ones, confidences, predictions and pseudo labels, float64 [2 + 2 C]."""
        confidence = labels.confidence.double()
        p = labels.probabilities.double().sum(dim=0)
        h = torch.zeros_like(p).scatter_add_(0, labels.label, torch.ones_like(confidence))
        return torch.cat([torch.ones_like(confidence).sum()[None], confidence.sum()[None], p, h])

    def learn(self, sums: Tensor) -> None:
        """Equations 5, 6 and 11."""
        means = (sums[1:] / sums[0]).float()
        p, h = means[1:].split(self.classes)
        blend(self.level, means[0], self.config.momentum)
        blend(self.prediction, p, self.config.momentum)
        blend(self.histogram, h, self.config.momentum)

    def loss(self, logits: Tensor, keep: Tensor) -> Tensor | None:
        """w_f times the self-adaptive fairness of a micro-batch (eq. 9 to 12).

        Minus the cross-entropy between p / h over time and, for the student's predictions of the samples that
        count, their mean over the share of each class, both normalised to a sum of 1. A class that the
        student gives to no such sample is left out: its term is a constant.
        """
        if not self.config.fairness:
            return None
        q = torch.softmax(logits.float(), dim=1)
        counts = keep.float()
        mean = (q * counts[:, None]).sum(dim=0)  # [C]; the sum's factor goes with the normalisation
        shares = torch.zeros_like(mean).scatter_add_(0, q.detach().argmax(dim=1), counts)
        present = shares > 0
        ratio = torch.where(present, mean / shares.where(present, 1.0), 0.0)
        ratio = ratio / ratio.sum().clamp(min=torch.finfo(torch.float32).tiny)
        target = self.prediction / self.histogram
        target = target / target.sum()
        return self.config.fairness * (target * torch.log(ratio.where(present, 1.0))).sum()
