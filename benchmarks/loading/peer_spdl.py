"""SPDL's threads as peers: one decode of each image by simplejpeg or TorchCodec, views by torchvision."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.loading.comparison import AREA, RATIO, AbsentError, MeasuredLoader, Setup
from fastsemi.loaders.plan.windows import TRIES, random_resized_crop

AHEAD = 2  # batches that wait for the consumer
NEW_ENOUGH = "'torchcodec>=0.16'"


class SpdlPeer:
    """Stages in threads, which need no process of their own as all these libraries let go of Python's lock.

    `decode` makes an image of the bytes of a file: uint8 [3, H, W].
    """

    def __init__(self, setup: Setup, decode: Callable[[bytes], torch.Tensor]):
        self._setup, self._decode, self._rng = setup, decode, np.random.default_rng(0)

    def run_pass(self, times: int = 1) -> int:
        """One pipeline from the list of files to batches."""
        setup = self._setup
        order = np.concatenate([self._rng.permutation(len(setup.files)) for _ in range(times)])
        draws = self._rng.random((2, len(order), 2 * TRIES + 3))
        windows = [random_resized_crop(u, setup.sizes[order], AREA, RATIO).tolist() for u in draws]
        flips = (draws[:, :, -1] < 0.5).tolist()
        work = list(zip([setup.files[i] for i in order], *windows, *flips, strict=True))
        builder: Any = (
            importlib.import_module("spdl.pipeline")
            .PipelineBuilder()
            .add_source(work)
            .pipe(self._views, concurrency=setup.threads)
        )
        builder = builder.aggregate(setup.batch, drop_last=True).pipe(_collate).add_sink(AHEAD)
        pipeline = builder.build(num_threads=setup.threads)
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # the pipeline's threads are the parallel ones
        try:
            with pipeline.auto_stop():
                return sum(len(weak) for weak, strong in pipeline)
        finally:
            torch.set_num_threads(before)

    def _views(self, item: tuple[str, list[int], list[int], bool, bool]) -> tuple[torch.Tensor, ...]:
        path, weak, strong, flip_weak, flip_strong = item
        with open(path, "rb") as file:
            image = self._decode(file.read())
        return self._view(image, weak, flip_weak), self._view(image, strong, flip_strong)

    def _view(self, image: torch.Tensor, window: list[int], flip: bool) -> torch.Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        left, top, width, height = window
        size, bicubic = [self._setup.image_size] * 2, InterpolationMode.BICUBIC
        view = functional.resized_crop(image, top, left, height, width, size, bicubic, antialias=True)
        return functional.horizontal_flip(view) if flip else view

    def close(self) -> None:
        """Threads end with each pass."""


def _collate(views: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    weak, strong = (torch.stack(view) for view in zip(*views, strict=True))
    return weak, strong


def spdl(setup: Setup) -> MeasuredLoader:
    """SPDL's pipeline over simplejpeg and torchvision's antialiased bicubic filter."""
    simplejpeg = _modules(setup, "simplejpeg", "simplejpeg")

    def decode(data: bytes) -> torch.Tensor:
        return torch.from_numpy(simplejpeg.decode_jpeg(data, colorspace="RGB")).permute(2, 0, 1)

    return SpdlPeer(setup, decode)


def torchcodec(setup: Setup) -> MeasuredLoader:
    """The same over PyTorch's own decoder of images, TorchCodec's."""
    decoders = _modules(setup, "torchcodec.decoders", NEW_ENOUGH)
    if not hasattr(decoders, "decode_jpeg"):
        raise AbsentError(f"this TorchCodec decodes no images; pip install {NEW_ENOUGH}")
    return SpdlPeer(setup, decoders.decode_jpeg)


def _modules(setup: Setup, decoder: str, package: str) -> Any:
    """The module of a decoder, where all that the pipeline needs is there, too."""
    try:
        for name in ("spdl.pipeline", "torchvision.transforms.v2"):
            importlib.import_module(name)
        module = importlib.import_module(decoder)
    except (ImportError, RuntimeError) as error:  # TorchCodec raises the latter without a library of FFmpeg
        said = str(error).splitlines()[0]
        raise AbsentError(f"{said}; pip install spdl-core torchvision {package}") from None
    if setup.augment:
        raise AbsentError("SPDL has no RandAugment")
    return module
