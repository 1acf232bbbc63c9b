"""Pseudo labels that lean on label spreading over the teacher's features."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsemi.loaders.stream import Stream
from fastsemi.stages.semi_config import SemiConfig


class NoPrior(nn.Module):
    """Predictions as they are."""

    def forward(self, logits: Tensor, ids: Tensor) -> Tensor:
        """The same logits."""
        return logits

    def update(self) -> None:
        """There is nothing to age."""


class LabelPrior(nn.Module):
    """p <- (1 - w) p + w q, with q the shares that label spreading gives an image.

    A linear head sees each image alone, a graph of neighbours sees which images lie together: on the same
    features label spreading is right more often than the head, most of all early. What it says becomes old as
    the features move on, so w falls from `weight` to half of it until the next time labels are spread.

    Args:
        ids: [U] of the unlabelled images.
        classes: C.
        weight: w at the time the labels were spread.
        every: Steps from one time to the next.
    """

    place: Tensor  # int32 [largest id + 1], position among `ids`
    shares: Tensor  # float16 [U, C]; a row of zeros where nothing is known
    age: Tensor  # int64 [] steps since the labels were spread

    def __init__(self, ids: NDArray[np.int64], classes: int, weight: float, every: int):
        super().__init__()
        self.weight, self.every = weight, every
        place = torch.zeros(int(ids.max()) + 1, dtype=torch.int32)
        place[torch.as_tensor(ids)] = torch.arange(len(ids), dtype=torch.int32)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("shares", torch.zeros(len(ids), classes, dtype=torch.float16))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Logits [B, C] whose softmax is the mixture; images of which nothing is known keep theirs."""
        shares = self.shares[self.place[ids].long()].float()
        weight = self.weight * (1 - self.age.float() / (2 * self.every)).clamp(min=0)
        weight = weight * shares.sum(dim=1, keepdim=True).clamp(max=1)
        mixture = (1 - weight) * torch.softmax(logits.float(), dim=1) + weight * shares
        return torch.log(mixture.clamp(min=1e-30))

    @torch.no_grad()
    def spread(self, ids: NDArray[np.int64], shares: NDArray[np.float32]) -> None:
        """Take new shares; what was known before is forgotten.

        Args:
            ids: [N] of images.
            shares: [N, C], rows that add up to 1.
        """
        self.shares.zero_()
        where = self.place[torch.as_tensor(ids, device=self.place.device)].long()
        self.shares[where] = torch.as_tensor(shares, device=self.shares.device).half()
        self.age.zero_()

    def update(self) -> None:
        """End a step."""
        self.age += 1


def create_prior(config: SemiConfig, stream: Stream, classes: int) -> NoPrior | LabelPrior:
    """What `semi.spread_weight` asks for; it knows nothing until labels are spread for the first time."""
    if not config.spread_weight:
        return NoPrior()
    every = config.spread_every.steps(stream.steps_per_pass)
    return LabelPrior(stream.ids, classes, config.spread_weight, max(1, every))
