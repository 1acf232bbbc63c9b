"""fastsemi's engines as loaders of `benchmarks.loaders`, and the decoding rate that bounds them all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.loading.comparison import FILL, JITTER, RANDAUGMENT, AbsentError, MeasuredLoader, Setup
from fastsemi.common.errors import UserError
from fastsemi.kernels.augment.cpu import augment_view
from fastsemi.loaders.device_copy import CudaCopier, load_to_device
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.engines.native_operator import available
from fastsemi.loaders.engines.settings import DaliOptions, Decode, EngineName
from fastsemi.loaders.index.index import MAX_PIXELS, build_index
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.prefetch import Loader, Prefetcher
from fastsemi.loaders.slots import RecycledSlots
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.stream import Stream
from fastsemi.loaders.write_beton import Encoding, Mode, write_beton

AHEAD = 4  # batches under way, the default of loader.prefetch
DECODE_CEILING = "full decode alone"
HW_LOADS = (0.2, 0.35, 0.65)  # of whole images, `loader.dali.hw_load`


class EngineLoader:
    """Plan, engine and prefetcher as training uses them; augmentation where training has it, on the device.

    Args:
        setup: The comparison.
        engine: Name of the engine.
        source: `folder`, or the form in which a .beton holds the images.
        max_side: Longer images are made smaller when the .beton is written; 0 keeps all sizes.
        jpeg_index_gb: As `loader.jpeg_index_gb`; what the warm-up has learnt is known in all rounds.
        options: Of the `dali` engine.
    """

    def __init__(
        self,
        setup: Setup,
        engine: str,
        source: str,
        *,
        max_side: int = 0,
        jpeg_index_gb: float = 0.0,
        options: DaliOptions | None = None,
    ):
        if engine == "native" and (reason := available()) is not None:
            raise AbsentError(reason)
        opened = _folder(setup) if source == "folder" else _beton(setup, cast(Mode, source), max_side)
        views = {
            View.WEAK: AugmentConfig(color_jitter=JITTER * setup.augment, randaugment="", erase=0),
            View.STRONG: AugmentConfig(randaugment=RANDAUGMENT * setup.augment, erase=0),
        }
        ids = np.arange(len(setup.files))
        self._setup, self._step = setup, 0
        self._slots = RecycledSlots()  # a pass is short: memory persists as the workers of peers do
        self._stream = Stream(opened.index, ids, setup.batch, 1, views, None, 0, setup.image_size)
        try:
            self._engine = create_engine(
                cast(EngineName, engine),
                opened,
                image_size=setup.image_size,
                threads=setup.threads,
                max_pixels=MAX_PIXELS,
                options=options,
                jpeg_index_gb=jpeg_index_gb,
            )
        except UserError as error:
            raise AbsentError(str(error)) from None

    def run_pass(self, times: int = 1) -> int:
        """The next passes of the stream."""
        first, count = self._step, 0
        self._step += times * (len(self._setup.files) // self._setup.batch)
        plans = (self._stream.plan(step, 0) for step in range(first, self._step))
        gpu = torch.cuda.is_available()
        create: Callable[..., Loader] = partial(Prefetcher, slots=self._slots)
        if gpu:
            create = partial(load_to_device, copier=CudaCopier(torch.device("cuda")))
        with create(self._engine, plans, depth=AHEAD) as batches:
            for batch in batches:
                if self._setup.augment:
                    for view, plan in zip(batch.images, batch.plan.views, strict=True):
                        augment_view(view, plan, fill=FILL)
                count += batch.images.shape[1]
        if gpu:
            torch.cuda.synchronize()
        return count

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


def _folder(setup: Setup) -> FolderSource:
    return FolderSource(build_index(Path(setup.files[0]).parent, has_classes=False))


def _beton(setup: Setup, mode: Mode, max_side: int) -> BetonSource:
    """The same images in a .beton, written once: JPEGs byte for byte, or their pixels."""
    path = setup.work / f"{mode}-{max_side}.beton"
    if not path.exists():
        source = _folder(setup)
        encoding = Encoding(mode=mode, max_side=max_side)
        write_beton(
            path, source, source.index, encoding=encoding, max_pixels=MAX_PIXELS, threads=setup.threads
        )
    return BetonSource.open([str(path)], has_classes=False, max_pixels=MAX_PIXELS)


class FullDecode:
    """Reads and decodes whole images with libjpeg-turbo and does nothing with them."""

    def __init__(self, setup: Setup):
        if setup.augment:
            raise AbsentError("it has no views to augment")
        try:
            import simplejpeg  # noqa: F401
        except ImportError as error:
            raise AbsentError(f"{error}; pip install simplejpeg") from None
        self._setup, self._pool = setup, ThreadPoolExecutor(setup.threads)

    def run_pass(self, times: int = 1) -> int:
        """Every image so many times."""
        files = self._setup.files * times
        parts = [files[start : start + 16] for start in range(0, len(files), 16)]
        return sum(self._pool.map(_decode, parts))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _decode(files: tuple[str, ...]) -> int:
    import simplejpeg

    for path in files:
        with open(path, "rb") as file:
            simplejpeg.decode_jpeg(file.read(), colorspace="RGB")
    return len(files)


def _engine(
    engine: str, source: str = "folder", *, augments: bool = True, **options: Any
) -> Callable[[Setup], MeasuredLoader]:
    def create(setup: Setup) -> MeasuredLoader:
        if setup.augment and not augments:
            raise AbsentError("augmentation does not depend on how images are read")
        return EngineLoader(setup, engine, source, **options)

    return create


def _dali(decode: Decode, hw_load: float = DaliOptions.hw_load) -> Callable[[Setup], MeasuredLoader]:
    """One way to decode on a GPU."""

    def create(setup: Setup) -> MeasuredLoader:
        if setup.augment or not torch.cuda.is_available():
            raise AbsentError("measured on a GPU, views only")
        return EngineLoader(setup, "dali", "folder", options=DaliOptions(decode=decode, hw_load=hw_load))

    return create


ENGINES: dict[str, Callable[[Setup], MeasuredLoader]] = {
    "fastsemi native": _engine("native"),
    "fastsemi native, JPEG index": _engine("native", augments=False, jpeg_index_gb=1.0),
    "fastsemi native, raw .beton": _engine("native", "raw", augments=False),
    "fastsemi native, raw .beton, 400 px": _engine("native", "raw", augments=False, max_side=400),
    "fastsemi native, JPEG .beton": _engine("native", "jpeg", augments=False),
    "fastsemi thread_pool": _engine("thread_pool"),
    "fastsemi dali": _engine("dali"),
    "fastsemi dali, windows decoded": _dali("window"),
    **{f"fastsemi dali, hw_load {share}": _dali("whole", share) for share in HW_LOADS},
    "fastsemi ffcv": _engine("ffcv", "jpeg"),
    "fastsemi reference": _engine("reference"),
    DECODE_CEILING: FullDecode,
}
