"""Accuracy over the evaluation images, exact and in one pass for several networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fastsemi.data import Data
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.precision import Precision
from fastsemi.views import Views


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent."""

    top1: float
    top5: float
    """Equal to 100 where there are five classes or fewer."""
    images: int


@torch.no_grad()
def evaluate(
    models: Mapping[str, nn.Module], data: Data, views: Views, precision: Precision, *, batch: int
) -> dict[str, Accuracy]:
    """Evaluate classifiers on `data.val`.

    Args:
        models: Classifiers by name; each is put back into the mode it was in.
        data: The run's data.
        views: Normalises.
        precision: Number format.
        batch: Images per batch.

    Returns:
        Accuracy of each, over all readable images.
    """
    modes = {name: model.training for name, model in models.items()}
    hits = {name: torch.zeros(2, dtype=torch.int64, device=views.device) for name in models}
    images = 0
    for model in models.values():
        model.eval()
    plans = evaluation_batches(data.val.index, data.val.ids, batch, data.config.eval_crop)
    with data.load(data.val, plans, allow_empty=True) as loader:
        for loaded in loader:
            on_device = views.to_device(loaded)
            pixels = views.normalise(on_device.images[0])
            images += int(np.count_nonzero(loaded.valid))
            for name, model in models.items():
                with precision.autocast():
                    logits = model(pixels)
                ranked = logits.float().topk(min(5, logits.shape[1])).indices  # [B, 5]
                hit = (ranked == on_device.labels[:, None]) & on_device.valid[:, None]
                hits[name] += torch.stack([hit[:, 0].sum(), hit.sum()])
    for name, model in models.items():
        model.train(modes[name])
    percent = {name: [100 * h / max(1, images) for h in count.tolist()] for name, count in hits.items()}
    return {name: Accuracy(top1, top5, images) for name, (top1, top5) in percent.items()}
