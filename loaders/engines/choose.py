"""Which engine runs: an explicit choice works or raises, `auto` says what it chose and why."""

from __future__ import annotations

import functools
import logging
import os
from functools import partial
from typing import get_args

import torch

from fastsemi.common.errors import UserError
from fastsemi.common.hardware import available_memory, hardware
from fastsemi.common.version import __version__
from fastsemi.loaders.engines import dali, ffcv, native_operator
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.engines.bounded import BoundedEngine
from fastsemi.loaders.engines.dali import DaliEngine
from fastsemi.loaders.engines.ffcv import FfcvEngine
from fastsemi.loaders.engines.native import NativeEngine
from fastsemi.loaders.engines.race import fastest
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.engines.settings import DaliOptions, EngineName
from fastsemi.loaders.engines.thread_pool import ThreadPoolEngine
from fastsemi.loaders.engines.turning import TurningEngine
from fastsemi.loaders.sources.base import Source

logger = logging.getLogger(__name__)

_ENGINES: dict[EngineName, type[Engine]] = {
    "native": NativeEngine,
    "dali": DaliEngine,
    "ffcv": FfcvEngine,
    "thread_pool": ThreadPoolEngine,
    "reference": ReferenceEngine,
}


def create_engine(
    name: EngineName,
    source: Source,
    *,
    image_size: int,
    threads: int,
    max_pixels: int,
    options: DaliOptions | None = None,
    device: torch.device | None = None,
    max_memory: float = 0.0,
    jpeg_index_gb: float = 0.0,
) -> Engine:
    """Build the engine called `name` for a source.

    Args:
        name: An engine, or `auto` for the fastest here, which a trial finds where several may be.
        source: Where the bytes come from.
        image_size: Side of a view in pixels.
        threads: Decoding threads.
        max_pixels: Larger images are refused.
        options: Options of the `dali` engine.
        device: Where the batches are wanted; by default on the current CUDA device where there is one.
        max_memory: GiB in which images are decoded; 0 for a fair share of half of what is available.
        jpeg_index_gb: GiB at most in which `native` keeps where parts of JPEGs begin.

    Raises:
        UserError: Unknown name, or an engine that cannot run here or with this source.
    """
    turned = source.turns is not None and name != "reference"  # which turns images itself
    stored = source.as_stored() if turned else source
    memory = decoding_memory(max_memory)
    index_bytes = min(int(jpeg_index_gb * 2**30), _share(available_memory() // 16))
    engine = _create(name, stored, image_size, threads, max_pixels, options, device, memory, index_bytes)
    bounded = BoundedEngine(engine, memory)
    return TurningEngine(bounded, source) if turned else bounded


def decoding_memory(max_memory: float) -> int:
    """Bytes in which images are decoded, of `loader.max_memory` in GiB."""
    return int(max_memory * 2**30) or _share(available_memory() // 2)


def _share(memory: int) -> int:
    """What each process of this machine has of some memory."""
    return memory // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _create(
    name: EngineName,
    source: Source,
    image_size: int,
    threads: int,
    max_pixels: int,
    options: DaliOptions | None,
    device: torch.device | None,
    memory: int,
    index_bytes: int,
) -> Engine:
    if name not in get_args(EngineName):
        raise UserError(f"loader.engine {name!r} is unknown; use {', '.join(get_args(EngineName))}")
    gpu = torch.cuda.is_available() and (device is None or device.type == "cuda")
    chosen, reason = resolve(name, gpu)
    make = partial(_make, source, image_size, threads, max_pixels, options, gpu, index_bytes)
    if name == "auto":
        if len(names := candidates(gpu)) > 1:
            makers = {each: partial(lambda each: BoundedEngine(make(each), memory), each) for each in names}
            of = [*_here(), type(source).__name__, str(source.is_raw), str(image_size), str(threads)]
            chosen, reason = fastest(makers, source, image_size, [*of, str(options)])
        _say(chosen, reason)
    if chosen == "thread_pool" != name:
        logger.warning("the native engine runs in its slower form: %s", native_operator.available())
    return make(chosen)


def _make(
    source: Source,
    image_size: int,
    threads: int,
    max_pixels: int,
    options: DaliOptions | None,
    gpu: bool,
    index_bytes: int,
    name: EngineName,
) -> Engine:
    if name == "native":
        return NativeEngine(source, image_size, threads, max_pixels, index_bytes)
    if name == "dali":
        number = torch.cuda.current_device() if gpu else None
        return DaliEngine(source, image_size, threads, max_pixels, number, options)
    return _ENGINES[name](source, image_size, threads, max_pixels)


def candidates(gpu: bool) -> list[EngineName]:
    """What `auto` chooses from: the native engine in the form that runs here, and beside a GPU DALI.

    Args:
        gpu: Whether batches are wanted on a CUDA device. On a CPU DALI is several times slower.
    """
    native, _ = resolve("native", gpu)
    return [native, "dali"] if gpu and dali.available() is None else [native]


def _here() -> list[str]:
    """Machine and versions, by which a trial's result is kept."""
    machine = hardware()
    return [
        *(str(machine[key]) for key in ("cpu", "cores", "gpu")),
        *(__version__, torch.__version__, dali.version()),
    ]


def resolve(name: EngineName, gpu: bool) -> tuple[EngineName, str]:
    """The engine that runs here under a name, and why.

    `native` is `thread_pool` where its operator is not built; `auto` is that too, unless DALI runs beside a
    GPU, where `create_engine` tries both.

    Args:
        name: What `loader.engine` says.
        gpu: Whether batches are wanted on a CUDA device.
    """
    reason = "loader.engine names it"
    if name == "auto":
        missing = dali.available() if gpu else "no CUDA GPU is used"
        name, reason = "native", missing or "unless a trial beside the GPU finds DALI faster"
    if name == "native" and native_operator.available() is not None:
        return "thread_pool", f"the native operator cannot be used, and {reason}"
    return name, reason


def fast_engines(source: Source, gpu: bool) -> list[EngineName]:
    """Engines that run here on a source and may be the fastest."""
    names: tuple[EngineName, ...] = ("native", "dali", "ffcv") if gpu else ("native", "ffcv")
    missing = unavailable()
    return [resolve(n, gpu)[0] for n in names if n not in missing and _ENGINES[n].takes(source)]


@functools.cache  # once a process, though training and evaluation have engines of their own
def _say(name: str, reason: str) -> None:
    logger.info("the loader's engine is %s: %s", name, reason)


def unavailable() -> dict[str, str]:
    """Engines that cannot run here: {name: why and the cure}, each one line."""
    reasons = {"dali": dali.available(), "ffcv": ffcv.available()}
    return {name: reason for name, reason in reasons.items() if reason is not None}
