"""What a network makes of each image of a set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.stages.inputs import Views


@dataclass(frozen=True)
class Outcomes:
    """A network's answers to N readable images."""

    ids: NDArray[np.int64]  # [N] position in the index
    labels: NDArray[np.int64]  # [N] class, -1 where unknown
    predicted: NDArray[np.int64]  # [N] class
    confidence: NDArray[np.float32]  # [N] largest probability
    energy: NDArray[np.float32]  # [N] -log of the summed exponentials of the logits; high for unlike images

    @property
    def right(self) -> NDArray[np.bool_]:
        """[N] whether the prediction is the label."""
        return self.predicted == self.labels

    def confusion(self, classes: int) -> NDArray[np.int64]:
        """[C, C] counts: rows are true classes, columns predicted ones. All labels must be known."""
        cells = np.bincount(self.labels * classes + self.predicted, minlength=classes * classes)
        return cells.reshape(classes, classes)


@torch.no_grad()
def outcomes(
    model: nn.Module,
    images: ImageSet,
    data: Data,
    views: Views,
    precision: Precision,
    *,
    batch: int,
    temperature: float = 1.0,
) -> Outcomes:
    """Run a network over the images of a set, in one process.

    The energy is that of Liu et al., 2020, with temperature 1.

    Args:
        model: Classifier in evaluation mode.
        images: Which images.
        data: Loads them.
        views: Normalises.
        precision: Number format.
        batch: Images per batch.
        temperature: Divides the logits before the softmax, for the confidences alone.
    """
    parts = []
    crop, whole = data.config.eval_crop, data.config.resized_to
    plans = evaluation_batches(images.index, images.ids, batch, crop, whole)
    with data.load(images, plans, allow_empty=True) as loader:
        for loaded in loader:
            on_device = views.to_device(loaded)
            with precision.autocast():
                logits = model(views.normalise(on_device.images[0]))
            logits = logits.float()
            confidence, predicted = (logits / temperature).softmax(1).max(1)
            answers = (on_device.ids, on_device.labels, predicted, confidence, -logits.logsumexp(1))
            parts.append([answer.cpu().numpy()[loaded.valid] for answer in answers])
    if not parts:
        parts.append([np.zeros(0, np.int64)] * 3 + [np.zeros(0, np.float32)] * 2)
    return Outcomes(*(np.concatenate(column) for column in zip(*parts, strict=True)))
