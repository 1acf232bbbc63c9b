"""Cases of `benchmarks.ops.kernels` for colour jitter and RandAugment on a device."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.harness import Case, DeviceTimer, Timer
from benchmarks.loading.peers import FILL, JITTER, RANDAUGMENT, v2_transforms
from fastsemi.kernels.augment.cpu import augment_in_torch, augment_view, planned_layers
from fastsemi.kernels.augment.passes import schedule
from fastsemi.kernels.dispatch import Kernels
from fastsemi.loaders.plan.draws import AugmentConfig, View, plan_view
from fastsemi.loaders.plan.types import ViewPlan

PEER = "torchvision v2"
Kind = Literal["weak", "strong"]


def planned(kind: Kind, batch: int, size: int) -> ViewPlan:
    """Colour jitter (weak) or RandAugment (strong) as training plans it."""
    weak, strong = AugmentConfig(color_jitter=JITTER, randaugment=""), AugmentConfig(randaugment=RANDAUGMENT)
    view, config = (View.WEAK, weak) if kind == "weak" else (View.STRONG, strong)
    ids, sizes = np.arange(batch), np.full((batch, 2), size, np.int32)
    return plan_view(
        seed=0, epoch=np.zeros_like(ids), ids=ids, sizes=sizes, view=view, config=config, image_size=size
    )


def augment_bytes(view: ViewPlan, batch: int, size: int) -> int:
    """What the passes move: an image is read and written in each, and read once more for a statistic."""
    rounds = schedule(*planned_layers(view, batch), size, size, 1).rounds
    return 3 * size * size * sum(2 * count + looks for count, looks, _ in rounds)


def v2_loop(kind: Kind, images: Tensor) -> Callable[[], object] | None:
    """torchvision v2, which draws one operation for a whole batch, called for one image at a time."""
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError):  # the latter beside a PyTorch that it was not built for
        return None
    weak, strong = (v2.Compose(transforms) for transforms in v2_transforms())
    transform = weak if kind == "weak" else strong
    planes = images.permute(0, 3, 1, 2).contiguous()
    return lambda: torch.stack([transform(image) for image in planes])


def kornia_batch(kind: Kind, images: Tensor) -> Callable[[], object] | None:
    """kornia on the whole batch: jitter drawn for each image, RandAugment's two operations for all of it."""
    try:
        from kornia.augmentation import ColorJitter
        from kornia.augmentation.auto import RandAugment
    except ImportError:
        return None
    transform = ColorJitter(JITTER, JITTER, JITTER, p=1.0) if kind == "weak" else RandAugment(n=2, m=9)
    planes = (images.permute(0, 3, 1, 2) / 255).contiguous()  # its type and order, made beforehand
    return lambda: transform(planes)


def native_is_built() -> bool:
    """Whether a CPU augments by the extension of C++."""
    return importlib.util.find_spec("fastsemi._native") is not None


def augment_cases(
    kind: Kind, batch: int, size: int, device: str, timer: Timer, kinds: dict[str, Kernels]
) -> list[Case]:
    """The reference, C++ or Triton where it runs; where they are installed kornia and torchvision v2, last.

    The time contains what the host does before its launches wherever the device has to wait for it.
    """
    view = planned(kind, batch, size)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, size, size, 3), generator=g, dtype=torch.uint8).to(device)
    op, arg = planned_layers(view, batch)
    runs: dict[str, Callable[[], object]] = {"torch": partial(augment_in_torch, images, op, arg, fill=FILL)}
    if device == "cpu" and native_is_built():
        runs["native"] = partial(augment_view, images, view, fill=FILL)
    if "triton" in kinds:
        runs["triton"] = partial(kinds["triton"].augment, images, view, fill=FILL)
    if peer := kornia_batch(kind, images):
        runs["kornia"] = peer
    details = {"bytes": augment_bytes(view, batch, size)}
    cases = [Case(f"augment {kind} {name}", run, batch, timer, details) for name, run in runs.items()]
    if peer := v2_loop(kind, images):
        slow = replace(timer, repeats=1) if isinstance(timer, DeviceTimer) else timer
        cases.append(Case(f"augment {kind} {PEER}", peer, batch, slow, details))
    return cases
