"""Peers in PyTorch's DataLoader: the paper's transforms (Pillow, timm) and torchvision's on tensors."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.loading.comparison import (
    AREA,
    FILL,
    JITTER,
    RANDAUGMENT,
    RATIO,
    AbsentError,
    MeasuredLoader,
    Setup,
)

WORKER_BATCHES = 4  # that each DataLoader worker prepares ahead


class _TwoViews(Dataset):
    def __init__(self, files: tuple[str, ...], read: Callable, weak: Callable, strong: Callable):
        self._files, self._read, self._weak, self._strong = files, read, weak, strong

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self._read(self._files[i])
        return self._weak(image), self._strong(image)


class DataLoaderPeer:
    """A map-style dataset in PyTorch's DataLoader, one process a thread.

    Workers come from a fork server: the process that measures has threads of other loaders, which a fork
    would copy half-way.
    """

    def __init__(self, setup: Setup, read: Callable, weak: Callable, strong: Callable):
        self._loader = DataLoader(
            _TwoViews(setup.files, read, weak, strong),
            batch_size=setup.batch,
            shuffle=True,
            num_workers=setup.threads,
            persistent_workers=True,
            prefetch_factor=WORKER_BATCHES,
            drop_last=True,
            multiprocessing_context="forkserver",
            worker_init_fn=_start_worker,
        )

    def run_pass(self, times: int = 1) -> int:
        """Epochs."""
        return sum(len(weak) for _ in range(times) for weak, strong in self._loader)

    def close(self) -> None:
        """End the workers."""
        iterator = self._loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None


def _start_worker(number: int) -> None:
    """Python's generator draws timm's transforms, and PyTorch seeds only its own in a worker."""
    torch.set_num_threads(1)
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)


def _open_pillow(path: str) -> Image.Image:
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def timm_transforms(**options: Any) -> tuple[list, list]:
    """Weak colour jitter and strong RandAugment of Pillow images; `options` are timm's further ones."""
    from timm.data.auto_augment import rand_augment_transform
    from torchvision import transforms as v1

    augment = rand_augment_transform(RANDAUGMENT, {"translate_const": 100, "img_mean": FILL, **options})
    for op in augment.ops:
        op.magnitude_max = 9.99  # at 10 timm asks Pillow to keep 0 bits, which Pillow 12 refuses
    return [v1.ColorJitter(JITTER, JITTER, JITTER)], [augment]


def v2_transforms() -> tuple[list, list]:
    """The same of uint8 tensors [3, H, W], as near as torchvision comes to it."""
    from torchvision.transforms import InterpolationMode, v2

    # As timm's two operations, each applied with probability 1/2. Tensors are not warped bicubically.
    one = v2.RandAugment(
        num_ops=1,
        magnitude=9,
        num_magnitude_bins=11,
        interpolation=InterpolationMode.BILINEAR,
        fill=list(FILL),
    )
    policy = [v2.RandomApply([one], 0.5), v2.RandomApply([one], 0.5)]
    return [v2.ColorJitter(JITTER, JITTER, JITTER)], policy


def paper(setup: Setup) -> MeasuredLoader:
    """The paper's loader: Pillow, torchvision's weak and timm's strong transforms, on Pillow images."""
    try:
        from timm.data.transforms import RandomResizedCropAndInterpolation
        from torchvision import transforms as v1
    except ImportError as error:
        raise AbsentError(f"{error}; pip install timm torchvision") from None

    def crop() -> list:
        size = setup.image_size
        return [
            RandomResizedCropAndInterpolation(size, AREA, RATIO, interpolation="bicubic"),
            v1.RandomHorizontalFlip(),
        ]

    jitter, policy = timm_transforms() if setup.augment else ([], [])
    weak = v1.Compose([*crop(), *jitter, _to_tensor])
    strong = v1.Compose([*crop(), *policy, _to_tensor])
    return DataLoaderPeer(setup, _open_pillow, weak, strong)


def _decode_torchvision(path: str) -> torch.Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def torchvision_v2(setup: Setup) -> MeasuredLoader:
    """torchvision's own JPEG decoder and v2 transforms, on uint8 tensors."""
    try:
        from torchvision.transforms import InterpolationMode, v2
    except ImportError as error:
        raise AbsentError(f"{error}; pip install torchvision") from None

    def crop() -> list:
        bicubic = InterpolationMode.BICUBIC
        size = setup.image_size
        return [
            v2.RandomResizedCrop(size, AREA, RATIO, interpolation=bicubic, antialias=True),
            v2.RandomHorizontalFlip(),
        ]

    jitter, policy = v2_transforms() if setup.augment else ([], [])
    weak, strong = v2.Compose([*crop(), *jitter]), v2.Compose([*crop(), *policy])
    return DataLoaderPeer(setup, _decode_torchvision, weak, strong)
