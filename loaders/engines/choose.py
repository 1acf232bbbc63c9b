"""Which engine runs: an explicit choice works or raises, `auto` says what it chose and why."""

from __future__ import annotations

import functools
import logging
from typing import get_args

import torch

from fastsemi.common.errors import UserError
from fastsemi.loaders.engines import dali, ffcv
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.engines.dali import DaliEngine
from fastsemi.loaders.engines.ffcv import FfcvEngine
from fastsemi.loaders.engines.native import create_native
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.engines.settings import DaliOptions, EngineName
from fastsemi.loaders.engines.thread_pool import ThreadPoolEngine
from fastsemi.loaders.sources.base import Source

logger = logging.getLogger(__name__)


def create_engine(
    name: EngineName,
    source: Source,
    *,
    image_size: int,
    threads: int,
    max_pixels: int,
    options: DaliOptions | None = None,
    device: torch.device | None = None,
) -> Engine:
    """Build the engine called `name` for a source.

    Args:
        name: An engine, or `auto` for the fastest that works here.
        source: Where the bytes come from.
        image_size: Side of a view in pixels.
        threads: Decoding threads.
        max_pixels: Larger images are refused.
        options: Options of the `dali` engine.
        device: Where the batches are wanted; by default on the current CUDA device where there is one.

    Raises:
        UserError: Unknown name, or an engine that cannot run here or with this source.
    """
    if name not in get_args(EngineName):
        raise UserError(f"loader.engine {name!r} is unknown; use {', '.join(get_args(EngineName))}")
    gpu = torch.cuda.is_available() and (device is None or device.type == "cuda")
    if name == "auto":
        name, reason = fastest(gpu)
        _say(name, reason)
    if name == "dali":
        number = torch.cuda.current_device() if gpu else None
        return DaliEngine(source, image_size, threads, max_pixels, number, options)
    kinds = {"reference": ReferenceEngine, "thread_pool": ThreadPoolEngine, "ffcv": FfcvEngine}
    return kinds.get(name, create_native)(source, image_size, threads, max_pixels)


def fastest(gpu: bool) -> tuple[EngineName, str]:
    """The engine that `auto` takes here, and why; `gpu`: batches are wanted on a CUDA device."""
    if not gpu:
        return "native", "no CUDA GPU is used"
    missing = dali.available()
    if missing is not None:
        return "native", missing
    return "dali", "there are a CUDA GPU and DALI"


@functools.cache  # once a process, though training and evaluation have engines of their own
def _say(name: str, reason: str) -> None:
    logger.info("the loader's engine is %s: %s", name, reason)


def unavailable() -> dict[str, str]:
    """Engines that cannot run here: {name: why and the cure}, each one line."""
    reasons = {"dali": dali.available(), "ffcv": ffcv.available()}
    return {name: reason for name, reason in reasons.items() if reason is not None}
