"""Pseudo labels that serve for several passes over the unlabelled images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsemi.parallel import processes
from fastsemi.stages.thresholds.base import PseudoLabels

_LABEL_BITS = 32
_UNKNOWN = -1


class NoLabelMemory(nn.Module):
    """Nothing is remembered: the teacher labels each batch."""

    def note(self, labels: PseudoLabels) -> None:
        """Forget them."""

    def update(self) -> None:
        """There is nothing to take over."""


class LabelMemory(nn.Module):
    """The last pseudo label and confidence of each unlabelled image.

    A step changes it once, by the labels of all micro-batches of all processes. Of an image that comes twice
    in a step the surer label stays, so that no order matters. Nothing here waits for the device.

    Args:
        highest_id: Largest id of the images.
        classes: C.
    """

    known: Tensor  # int64 [highest id + 1], bits of the confidence before the label; -1 where there is none

    def __init__(self, highest_id: int, classes: int):
        super().__init__()
        self.classes = classes
        self.register_buffer("known", torch.full((highest_id + 1,), _UNKNOWN, dtype=torch.int64))
        self._noted: list[Tensor] = []  # of this step, each [2, B]: ids, and what is to be known of them

    @torch.no_grad()
    def note(self, labels: PseudoLabels) -> None:
        """Add the labels of a micro-batch to those that the end of the step remembers."""
        bits = (
            labels.confidence.float().view(torch.int32).long()
        )  # ascends with the confidence, as that is >= 0
        self._noted.append(torch.stack([labels.ids, bits << _LABEL_BITS | labels.label]))

    def recall(self, ids: Tensor) -> tuple[PseudoLabels, Tensor]:
        """What is known of images.

        Args:
            ids: int64 [B], of the images.

        Returns:
            Their labels, without logits, and whether there is one, bool [B]. Where there is none the label
            is 0 and the confidence 1 / C, the least there is.
        """
        known = self.known[ids]
        there = known != _UNKNOWN
        label = torch.where(there, known & (2**_LABEL_BITS - 1), 0)
        confidence = (known >> _LABEL_BITS).int().view(torch.float32)
        return PseudoLabels(label, torch.where(there, confidence, 1 / self.classes), None, ids), there

    @torch.no_grad()
    def update(self) -> None:
        """Remember what was noted in the step, in place of what was known of these images."""
        if not self._noted:
            return
        ids, fresh = processes.join(torch.cat(self._noted, dim=1))
        self._noted = []
        self.known[ids] = _UNKNOWN
        self.known.scatter_reduce_(0, ids, fresh, "amax")
