"""Distribution alignment: pseudo labels as if the classes were as frequent as they are known to be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsemi.loaders.data import Data
from fastsemi.parallel import processes
from fastsemi.stages.logit_adjustment import labelled_shares
from fastsemi.stages.semi_config import SemiConfig


class NoAlignment(nn.Module):
    """Predictions as they are."""

    def forward(self, logits: Tensor) -> Tensor:
        """The same logits."""
        return logits

    def update(self) -> None:
        """There is nothing to learn."""


class Alignment(nn.Module):
    """Berthelot et al., "ReMixMatch" (2020), section 3.1: `p~ = normalise(p * target / E[p])`.

    E[p] is an average of the teacher's predictions over the steps, without the bias of its start. As for
    threshold rules, a step changes it once, by the predictions of all micro-batches of all processes, and
    the pseudo labels of a step come from what the steps before it left. Nothing here waits for the device.

    Args:
        target: float [C], how frequent the classes are, adding up to 1; each positive.
        momentum: Of the average.
    """

    target: Tensor  # float32 [C]
    average: Tensor  # float32 [C] of p, from 0
    mass: Tensor  # float32 [] of the weights in the average, from 0 to 1
    sums: Tensor  # float64 [C + 1] predictions of a step added up, and their number

    def __init__(self, target: Tensor, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("target", target.float(), persistent=False)
        self.register_buffer("average", torch.zeros_like(self.target))
        self.register_buffer("mass", torch.zeros(()))
        self.register_buffer("sums", torch.zeros(len(target) + 1, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """Logits [B, C] whose softmax is the aligned one; the predictions before alignment are noted."""
        logits = logits.float()
        predicted = torch.softmax(logits, dim=1).double().sum(dim=0)
        self.sums += torch.cat([predicted, predicted.new_full((1,), len(logits))])
        expected = self.average / self.mass.clamp(min=1e-12)
        ratio = torch.where(self.mass > 0, self.target / expected.clamp(min=1e-6), 1.0)
        return logits + torch.log(ratio)

    @torch.no_grad()
    def update(self) -> None:
        """End a step."""
        sums = processes.add_up(self.sums)
        mean = (sums[:-1] / sums[-1].clamp(min=1)).float()
        self.average.copy_(self.momentum * self.average + (1 - self.momentum) * mean)
        self.mass.copy_(self.momentum * self.mass + (1 - self.momentum))
        self.sums.zero_()


def create_alignment(config: SemiConfig, data: Data) -> NoAlignment | Alignment:
    """What `semi.align` names; `labelled` counts the labels, a class without any as half a label."""
    classes = len(data.classes)
    if config.align == "none":
        return NoAlignment()
    if config.align == "uniform":
        return Alignment(torch.full((classes,), 1 / classes), config.align_momentum)
    return Alignment(labelled_shares(data), config.align_momentum)
