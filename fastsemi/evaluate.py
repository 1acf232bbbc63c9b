"""Accuracy over the evaluation images, exact, in one pass, for any number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fastsemi import distributed
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
    """Evaluate classifiers on `data.val`, each of whose images is one process's.

    Args:
        models: Classifiers by name; each is put back into the mode it was in.
        data: The run's data.
        views: Normalises.
        precision: Number format.
        batch: Images per batch of a process.

    Returns:
        Accuracy of each, over all readable images; the same in all processes.
    """
    modes = {name: model.training for name, model in models.items()}
    hits = {name: torch.zeros(2, dtype=torch.int64, device=views.device) for name in models}
    images = torch.zeros((), dtype=torch.int64, device=views.device)
    for model in models.values():
        model.eval()
    mine = data.val.ids[distributed.rank() :: distributed.world()]
    plans = evaluation_batches(data.val.index, mine, batch, data.config.eval_crop)
    size = data.config.image_size
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
    if _passes(len(mine), batch) < _passes(-(-len(data.val.ids) // distributed.world()), batch):
        # A process with an image less than others may have a pass less, and shards are gathered in each.
        for model in models.values():
            with precision.autocast():
                model(torch.zeros(1, 3, size, size, device=views.device))
    for name, model in models.items():
        model.train(modes[name])
    table = distributed.add_up(torch.stack([*hits.values(), images.expand(2)])).tolist()
    total = table.pop()[0]
    percent = {name: [100 * h / max(1, total) for h in row] for name, row in zip(hits, table, strict=True)}
    return {name: Accuracy(top1, top5, total) for name, (top1, top5) in percent.items()}


def _passes(images: int, batch: int) -> int:
    return -(-images // batch)
