"""Accuracy over the evaluation images, exact, in one pass, for any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.parallel import processes
from fastsemi.stages.inputs import DeviceBatch, Views


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in percent."""

    top1: float
    top5: float
    """Equal to 100 where there are five classes or fewer."""
    balanced: float
    """Mean over the classes of their top-1: what counts where classes are of different size."""
    loss: float
    """Mean cross-entropy, not in percent."""
    images: int


@torch.no_grad()
def evaluate(
    models: Mapping[str, nn.Module],
    data: Data,
    views: Views,
    precision: Precision,
    *,
    batch: int,
    images: ImageSet | None = None,
    after_pass: Callable[[], None] = lambda: None,
) -> dict[str, Accuracy]:
    """Evaluate classifiers on images each of which is one process's.

    Args:
        models: Classifiers by name; each is put back into the mode it was in.
        data: The run's data.
        views: Normalises.
        precision: Number format.
        batch: Images per batch of a process.
        images: What to evaluate on; `data.val` by default.
        after_pass: Called after each batch, as often in all processes; may raise.

    Returns:
        Accuracy of each, over all readable images; the same in all processes.
    """
    images = data.val if images is None else images
    modes = {name: model.training for name, model in models.items()}
    classes = len(data.classes)
    # Hits by class, and hits among the first five; the images by class.
    hits = {name: torch.zeros(classes + 1, dtype=torch.int64, device=views.device) for name in models}
    seen = torch.zeros(classes + 1, dtype=torch.int64, device=views.device)
    losses = {name: torch.zeros((), dtype=torch.float64, device=views.device) for name in models}
    for model in models.values():
        model.eval()
    mine = images.ids[processes.rank() :: processes.world()]
    size = data.config.image_size
    for on_device, pixels in _batches(images, mine, data, views, batch):
        true = on_device.labels.clamp(min=0)
        seen.scatter_add_(0, true, on_device.valid.long())
        for name, model in models.items():
            with precision.autocast():
                logits = model(pixels)
            ranked = logits.float().topk(min(5, logits.shape[1])).indices  # [B, 5]
            loss = F.cross_entropy(logits.float(), true, reduction="none")  # [B]
            losses[name] += torch.where(on_device.valid, loss, 0.0).double().sum()
            del logits  # while they are in use, a CUDA graph of the next network is recorded, not replayed
            hit = (ranked == on_device.labels[:, None]) & on_device.valid[:, None]
            hits[name].scatter_add_(0, true, hit[:, 0].long())
            hits[name][-1] += hit.sum()
        after_pass()
    if _passes(len(mine), batch) < _passes(-(-len(images.ids) // processes.world()), batch):
        # A process with an image less than others may have a pass less, and shards are gathered in each.
        for model in models.values():
            with precision.autocast():
                model(torch.zeros(1, 3, size, size, device=views.device))
        after_pass()
    for name, model in models.items():
        model.train(modes[name])
    *table, counts = processes.add_up(torch.stack([*hits.values(), seen])).tolist()
    sums = processes.add_up(torch.stack([*losses.values()])).tolist()
    return {name: _accuracy(row, total, counts) for name, row, total in zip(hits, table, sums, strict=True)}


def _accuracy(hits: list[int], loss: float, images: list[int]) -> Accuracy:
    """From top-1 hits by class with those of top-5 behind them, summed loss, and the images by class."""
    *right, among_five = hits
    total = max(1, sum(images))
    rates = [hit / count for hit, count in zip(right, images, strict=False) if count]
    balanced = 100 * sum(rates) / max(1, len(rates))
    return Accuracy(100 * sum(right) / total, 100 * among_five / total, balanced, loss / total, sum(images))


@dataclass(frozen=True)
class Said:
    """What a classifier says of N readable images, in the order of the index."""

    ids: NDArray[np.int64]  # [N] position in the index
    labels: NDArray[np.int64]  # [N] class, -1 where unknown
    logits: NDArray[np.float32]  # [N, C]


@torch.no_grad()
def class_logits(
    model: nn.Module, data: Data, views: Views, precision: Precision, *, batch: int, images: ImageSet
) -> Said | None:
    """What a classifier says of images, each of which is one process's.

    Args:
        model: Classifier of C classes in evaluation mode, whole in each process.
        data: The run's data.
        views: Normalises.
        precision: Number format.
        batch: Images per batch of a process.
        images: The images.

    Returns:
        All of it in rank 0; None elsewhere.
    """
    mine = images.ids[processes.rank() :: processes.world()]
    logits = [torch.zeros(0, len(data.classes), device=views.device)]
    valid = [torch.zeros(0, dtype=torch.bool, device=views.device)]
    for on_device, pixels in _batches(images, mine, data, views, batch):
        with precision.autocast():
            logits.append(model(pixels).float())
        valid.append(on_device.valid)
    read = torch.cat(valid).cpu().numpy()
    parts = processes.to_main((mine[read], torch.cat(logits).cpu().numpy()[read]))
    if not parts:
        return None
    ids, logits_of = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = ids.argsort()
    labels = np.asarray(images.index.labels[ids[order]], dtype=np.int64)
    return Said(ids[order], labels, logits_of[order])


def _batches(
    images: ImageSet, ids: NDArray[np.int64], data: Data, views: Views, batch: int
) -> Iterator[tuple[DeviceBatch, Tensor]]:
    """Some of a set's images on the device, and normalised, [B, 3, S, S]."""
    config = data.config
    plans = evaluation_batches(images.index, ids, batch, config.eval_crop, config.resized_to)
    with data.load(images, plans, allow_empty=True) as loader:
        for loaded in loader:
            on_device = views.to_device(loaded)
            yield on_device, views.normalise(on_device.images[0])


def _passes(images: int, batch: int) -> int:
    return -(-images // batch)
