"""torchvision's decoder on the GPU, nvJPEG, as a peer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.loading.comparison import AREA, RATIO, AbsentError, MeasuredLoader, Setup
from fastsemi.loaders.plan.windows import TRIES, random_resized_crop

AHEAD = 2  # batches whose files are read ahead


class NvjpegPeer:
    """Threads read files, nvJPEG decodes whole batches, and torchvision cuts the views on the GPU."""

    def __init__(self, setup: Setup):
        self._setup, self._rng = setup, np.random.default_rng(0)
        self._pool = ThreadPoolExecutor(setup.threads)

    def run_pass(self, times: int = 1) -> int:
        """Batches stay on the GPU."""
        order = np.concatenate([self._rng.permutation(len(self._setup.files)) for _ in range(times)])
        parts = np.split(order, len(order) // self._setup.batch)
        count = sum(self._views(ids, files).shape[1] for ids, files in self._read(parts))
        torch.cuda.synchronize()
        return count

    def _read(self, parts: list[np.ndarray]) -> Iterator[tuple[np.ndarray, list[torch.Tensor]]]:
        from torchvision.io import read_file

        waiting = [[self._pool.submit(read_file, self._setup.files[i]) for i in ids] for ids in parts[:AHEAD]]
        for n, ids in enumerate(parts):
            files = [future.result() for future in waiting.pop(0)]
            if n + AHEAD < len(parts):
                waiting.append([self._pool.submit(read_file, self._setup.files[i]) for i in parts[n + AHEAD]])
            yield ids, files

    def _views(self, ids: np.ndarray, files: list[torch.Tensor]) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        size = [self._setup.image_size] * 2
        draws = self._rng.random((2, len(ids), 2 * TRIES + 3))
        windows = [random_resized_crop(u, self._setup.sizes[ids], AREA, RATIO) for u in draws]
        images = decode_jpeg(files, mode=ImageReadMode.RGB, device="cuda")
        views = []
        for boxes, flips in zip(windows, draws[:, :, -1] < 0.5, strict=True):
            for image, (left, top, width, height), flip in zip(images, boxes.tolist(), flips, strict=True):
                bicubic = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
                view = functional.resized_crop(image, top, left, height, width, size, **bicubic)
                views.append(functional.horizontal_flip(view) if flip else view)
        return torch.stack(views).unflatten(0, (2, len(ids)))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def nvjpeg(setup: Setup) -> MeasuredLoader:
    """torchvision's nvJPEG and its antialiased bicubic filter, image by image as it offers them."""
    try:
        from torchvision.io import decode_jpeg  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise AbsentError(f"{error}; pip install torchvision") from None
    if not torch.cuda.is_available():
        raise AbsentError("no CUDA GPU")
    if setup.augment:
        raise AbsentError("measured by views only")
    return NvjpegPeer(setup)
