"""SoftMatch: weights in place of a threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsemi.stages.thresholds.base import PseudoLabels, ThresholdRule, blend
from fastsemi.stages.thresholds.settings import SoftMatchConfig


class SoftMatch(ThresholdRule):
    """Chen et al., "SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised Learning" (2023).

    The weight is a Gaussian of the confidence below its average mu, and 1 above:
    `exp(-min(o - mu, 0)^2 / (2 sigma^2 / n^2))`, where mu starts at 1/C and sigma^2 at 1 and both are
    averages over the steps. With alignment o is the largest entry of `normalise(p / E[p])`, E[p] an average
    too, which starts with the mean of the first step, as in USB (Wang et al., 2022), the authors' code; the
    pseudo label is that of p.

    Args:
        config: Options.
        classes: C.
    """

    mean: Tensor  # float32 [] mu
    variance: Tensor  # float32 [] sigma^2
    prediction: Tensor  # float32 [C] E[p]; zeros before the first step

    def __init__(self, config: SoftMatchConfig, classes: int):
        super().__init__(sums=3 + classes)
        self.config = config
        self.register_buffer("mean", torch.tensor(1 / classes))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("prediction", torch.zeros(classes))

    def confidence(self, labels: PseudoLabels) -> Tensor:
        """What is weighed: the confidence, aligned if so configured, float32 [B]."""
        if not self.config.align:
            return labels.confidence
        expected = torch.where(self._begun(), self.prediction.clamp(min=1e-6), 1.0)
        aligned = labels.probabilities / expected
        return aligned.amax(dim=1) / aligned.sum(dim=1)

    def weights(self, labels: PseudoLabels) -> Tensor:
        """Truncated Gaussian of the confidence, [B]."""
        below = (self.confidence(labels) - self.mean).clamp(max=0)
        return torch.exp(-below.square() * self.config.sigmas**2 / (2 * self.variance))

    def statistics(self, labels: PseudoLabels) -> Tensor:
        """Sums of ones, confidences, their squares, and predictions, float64 [3 + C]."""
        o = self.confidence(labels).double()
        ones = torch.ones_like(o)
        return torch.cat(
            [torch.stack([ones.sum(), o.sum(), o.square().sum()]), labels.probabilities.double().sum(dim=0)]
        )

    def learn(self, sums: Tensor) -> None:
        """Averages of the step's mean, of its unbiased variance, and of its mean prediction."""
        count, total, squares = sums[0], sums[1], sums[2]
        mean = total / count
        variance = ((squares - count * mean.square()) / (count - 1).clamp(min=1)).clamp(min=0)
        blend(self.mean, mean.float(), self.config.momentum)
        blend(self.variance, variance.float(), self.config.momentum)
        p = (sums[3:] / count).float()
        momentum = torch.where(self._begun(), self.config.momentum, 0.0)
        self.prediction.copy_(momentum * self.prediction + (1 - momentum) * p)

    def _begun(self) -> Tensor:
        return self.prediction.sum() > 0
