"""Classify images with a trained network."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.common.precision import Precision, select_device
from fastsemi.kernels.reference.pseudo_label import pseudo_label
from fastsemi.loaders.data import Data
from fastsemi.loaders.plan.types import LoadedBatch
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.models.create import use_fused_attention
from fastsemi.models.timm_folder import open_timm
from fastsemi.parallel import processes
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.stages.inputs import Views
from fastsemi.training.broken import share_broken


def load_trained(config: Config, precision: Precision) -> tuple[nn.Module, tuple[str, ...]]:
    """The network of a finished run and its class names.

    Args:
        config: The run.
        precision: Where and how it will be run.

    Raises:
        UserError: The run has no network yet.
    """
    run = RunFolder(config.output)
    folder = run.model
    run.require_model()
    model = open_timm(folder).to(precision.device).eval()
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    names, size = tuple(settings["label_names"]), settings["input_size"][-1]
    if size != config.data.image_size:
        raise UserError(
            f"data.image_size is {config.data.image_size}, but the model in {folder} takes {size}; use that"
        )
    use_fused_attention(model, precision.fused_attention)
    precision.apply()
    return model, names


@dataclass(frozen=True)
class Trained:
    """The network of a finished run beside its evaluation images."""

    model: nn.Module
    data: Data
    views: Views
    precision: Precision


@contextmanager
def trained_run(config: Config) -> Iterator[Trained]:
    """Open the network of a finished run and the images to evaluate it on within the block.

    Raises:
        UserError: No trained network, other classes than it knows, or no images.
    """
    device = select_device(processes.local_device(config.device))
    precision = Precision.select(config.precision, device)
    model, names = load_trained(config, precision)
    data = Data(config.data, config.loader, device=device)
    try:
        with processes.one_per_node_first():  # which indexes the images
            images = data.val
        if names != data.classes:
            raise UserError(
                f"the model of {config.output} knows other classes than {data.config.root} "
                f"({len(names)} and {len(data.classes)}); give the data it was trained for"
            )
        if not len(images.ids):
            raise UserError(f"{images.index.root} holds no images to evaluate on; add some")
        yield Trained(model, data, Views(config.data, device), precision)
    finally:
        data.close()


@torch.no_grad()
def predict(config: Config, what: str | Path) -> Iterator[tuple[str, str, float]]:
    """Classify every image of a source; of several processes each classifies its share of every batch.

    Args:
        config: The run whose network is used.
        what: A folder of images, in any sub-folders, or packed files as `data.unlabeled` takes them.

    Yields:
        Path (of a packed image: file and name), class name and confidence of each readable image, in the
        order of the source, which for a folder is sorted. All of them in rank 0, none in other processes,
        which must iterate too.

    Raises:
        UserError: No images there, or no trained network.
    """
    device = select_device(processes.local_device(config.device))
    precision = Precision.select(config.precision, device)
    model, names = load_trained(config, precision)
    views = Views(config.data, device)
    data = Data(config.data, config.loader, device=device)
    with processes.one_per_node_first():  # which indexes the images
        images = data.open_unlabelled(what)
    index, world = images.index, processes.world()
    plans = evaluation_batches(
        index, images.ids[processes.rank() :: world], config.eval_batch, config.data.eval_crop
    )
    try:
        with data.load(images, plans, allow_empty=True) as loader:
            for _ in range(0, len(images.ids), world * config.eval_batch):
                batch = next(loader, None)
                rows = [] if batch is None else _classify(model, batch, views, precision)
                for i, c, o in heapq.merge(*processes.to_main(rows)):
                    yield index.path(i), names[c], o
        share_broken(data.bad)
    finally:
        data.close()


def _classify(
    model: nn.Module, batch: LoadedBatch, views: Views, precision: Precision
) -> list[tuple[int, int, float]]:
    """Id, class and confidence of the readable images of a batch, by id."""
    pixels = views.normalise(views.to_device(batch).images[0])
    with precision.autocast():
        label, confidence = pseudo_label(model(pixels))
    rows = zip(batch.plan.ids.tolist(), label.tolist(), confidence.tolist(), batch.valid, strict=True)
    return [(i, c, o) for i, c, o, valid in rows if valid]


def write_csv(rows: Iterator[tuple[str, str, float]], path: Path) -> int:
    """Write predictions with the header `path,class,confidence`; returns how many.

    A former file is replaced when all are written, and kept if an error comes first.
    """
    count = 0
    with replacing(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "class", "confidence"))
        for name, label, confidence in rows:
            writer.writerow((name, label, f"{confidence:.4f}"))
            count += 1
    return count
