"""FixMatch as it is written from its paper with PyTorch and torchvision, and nothing else.

Source: Sohn et al., "FixMatch: Simplifying semi-supervised learning with consistency and confidence" (2020).
Files are opened by Pillow in a worker of torch's DataLoader, both views are torchvision's, and the labels
come from a pass without gradient. SGD with its momentum and decay, the threshold and the cosine are the
paper's; the last rate falls due with the budget of CPU seconds. The network is fastsemi's, under autocast to
bf16 as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.accuracy.cpu_clock import CpuClock
from benchmarks.accuracy.evaluations import Evaluations
from benchmarks.harness.curves import Curve
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.models.create import create_model
from fastsemi.run.config import Config

RATIO = 7  # unlabelled images for each labelled one
THRESHOLD = 0.95
WEIGHT_DECAY = 5e-4
MARGIN = 8  # the side over the pixels that a crop may go beyond the image
Transform = Callable[[Image.Image], Tensor]


class Pictures(Dataset[tuple[Any, ...]]):
    """Files of images, each as some views, with their labels."""

    def __init__(self, images: ImageSet, *views: Transform):
        self._paths: list[str] = list(images.index.paths(images.ids))
        self._labels, self._views = images.index.labels[images.ids].tolist(), views

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        """[3, S, S] of each view, and the label."""
        with Image.open(self._paths[i]) as file:
            image = file.convert("RGB")
        return (*(view(image) for view in self._views), self._labels[i])


def train(
    config: Config, data_name: str, *, budget: float, every: float, lr: float, batch: int, ema: float
) -> Curve:
    """Train on the labels, images and network of a configuration.

    Args:
        config: Of fastsemi: data, labels, size and network.
        data_name: Name of the data.
        budget: CPU seconds of training: all but imports and evaluation.
        every: CPU seconds from one evaluation to the next.
        lr: The first learning rate.
        batch: Labelled images of a step.
        ema: Momentum of the average of the weights.

    Returns:
        Top-1 of the average and of the network itself.
    """
    torch.manual_seed(config.seed)
    clock, data = CpuClock(), Data(config.data, config.loader)
    try:
        size = config.data.image_size
        network = create_model(config.model, num_classes=len(data.classes), image_size=size)
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
        optimizer = torch.optim.SGD(_groups(network), lr=lr, momentum=0.9, nesterov=True)
        watch = Evaluations(clock, config, data, budget=budget, every=every)
        weak, strong = transforms(config)
        labelled = _endless(Pictures(data.labelled, weak), batch)
        unlabelled = _endless(Pictures(data.train, weak, strong), batch * RATIO)
        done = False
        while not done:
            for group in optimizer.param_groups:
                group["lr"] = lr * watch.rate
            images, labels = next(labelled)
            weak_view, strong_view, _ = next(unlabelled)
            with torch.autocast("cpu", torch.bfloat16):
                loss = fixmatch(network, images, labels, weak_view, strong_view)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(network)
            done = watch.after_step({"ema": average.module, "network": network})
            network.train()
        return watch.curve(data_name, "plain", {"lr": lr, "batch": batch, "ema": ema})
    finally:
        data.close()


def fixmatch(network: nn.Module, images: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> Tensor:
    """The sum of both losses (equations 3 and 4), with the weight 1 of the second."""
    with torch.no_grad():
        confidence, pseudo = network(weak).float().softmax(dim=1).max(dim=1)
    logits = network(torch.cat([images, strong]))
    supervised = F.cross_entropy(logits[: len(images)], labels)
    losses = F.cross_entropy(logits[len(images) :], pseudo, reduction="none")
    return supervised + (losses * (confidence >= THRESHOLD)).mean()


def transforms(config: Config) -> tuple[Transform, Transform]:
    """The weak view, crop and mirror image, and the strong one, with RandAugment and Cutout besides."""
    size = config.data.image_size
    crop: list[Any] = [v2.Resize((size, size)), v2.RandomCrop(size, size // MARGIN, padding_mode="reflect")]
    if config.semi.weak.flip:
        crop.append(v2.RandomHorizontalFlip())
    finish: list[Any] = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(config.data.mean, config.data.std),
    ]
    cutout = v2.RandomErasing(p=1.0, scale=(0.02, 0.25), ratio=(1.0, 1.0))
    return v2.Compose([*crop, *finish]), v2.Compose([*crop, v2.RandAugment(), *finish, cutout])


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """Weights with decay, and biases and norms without."""
    tensors = list(network.parameters())
    decayed = {"params": [p for p in tensors if p.ndim > 1], "weight_decay": WEIGHT_DECAY}
    return [decayed, {"params": [p for p in tensors if p.ndim < 2], "weight_decay": 0.0}]


def _endless(pictures: Pictures, batch: int) -> Iterator[list[Tensor]]:
    """Batches of one pass after another, from one worker."""
    loader = DataLoader(pictures, batch, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    while True:
        yield from loader
