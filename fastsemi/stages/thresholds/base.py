"""What a threshold rule does: from pseudo labels to how much each of them counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastsemi.parallel import processes


class PseudoLabels(NamedTuple):
    """What the teacher says, or said, about the weak views of a micro-batch."""

    label: Tensor  # int64 [B]
    confidence: Tensor  # float32 [B]
    logits: Tensor | None  # [B, C]; None of labels that are remembered
    ids: Tensor  # int64 [B] which images these are, positions in the index

    @property
    def probabilities(self) -> Tensor:
        """p = softmax(logits), float32 [B, C]; of labels that are not remembered ones."""
        assert self.logits is not None
        return torch.softmax(self.logits.detach().float(), dim=1)


class ThresholdRule(nn.Module, ABC):
    """Decides how much each pseudo label counts.

    A rule with a state changes it once a step, from the sums over all micro-batches of all processes, so
    that a step is the same however it is split. It follows that the weights of a step come from the state
    that the steps before it left: the published rules take the batch at hand into account too.

    The state is made of buffers: `state_dict` holds it, except the sums, which are empty between steps.
    Nothing here waits for the device.

    Args:
        sums: Numbers that `observe` adds up over a step; 0 for a rule without a state.
    """

    sums: Tensor  # float64 [K]

    def __init__(self, sums: int = 0):
        super().__init__()
        self.register_buffer("sums", torch.zeros(sums, dtype=torch.float64), persistent=False)

    @abstractmethod
    def weights(self, labels: PseudoLabels) -> Tensor:
        """How much each pseudo label of a micro-batch counts, float32 [B] in [0, 1]; 0 is rejected."""

    def statistics(self, labels: PseudoLabels) -> Tensor | None:
        """What a micro-batch adds to the sums, [K]; None for a rule without a state."""
        return None

    def learn(self, sums: Tensor) -> None:
        """Change the state by the sums of a step, float64 [K]."""

    def loss(self, logits: Tensor, keep: Tensor) -> Tensor | None:
        """A further term of the loss.

        Args:
            logits: [n, C] of the student for unlabelled images.
            keep: bool [n], samples that count.

        Returns:
            A scalar that is added to the loss as it is; None for none.
        """
        return None

    @torch.no_grad()
    def observe(self, labels: PseudoLabels) -> None:
        """Add a micro-batch to what the rule learns from at the end of the step."""
        found = self.statistics(labels)
        if found is not None:
            self.sums += found

    @torch.no_grad()
    def update(self) -> None:
        """End a step."""
        if len(self.sums):
            self.learn(processes.add_up(self.sums))
            self.sums.zero_()

    def train(self, mode: bool = True) -> ThresholdRule:
        """A rule has one mode."""
        return self


def blend(state: Tensor, value: Tensor, momentum: float) -> None:
    """state <- m state + (1 - m) value, in place."""
    state.copy_(momentum * state + (1 - momentum) * value)
