"""Which engine runs: an explicit choice works or raises, `auto` says what it chose and why."""

from __future__ import annotations

import logging
from typing import Literal, get_args

from fastsemi.errors import UserError
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.engines.native import create_native
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.engines.thread_pool import ThreadPoolEngine
from fastsemi.loaders.sources.base import Source

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "native", "thread_pool", "reference"]


def create_engine(
    name: EngineName, source: Source, *, image_size: int, threads: int, max_pixels: int
) -> Engine:
    """Build the engine called `name` for a source.

    Args:
        name: `native`, `reference`, or `auto` for the fastest that works here.
        source: Where the bytes come from.
        image_size: Side of a view in pixels.
        threads: Decoding threads.
        max_pixels: Larger images are refused.

    Raises:
        UserError: Unknown name.
    """
    if name not in get_args(EngineName):
        raise UserError(f"loader.engine {name!r} is unknown; use {', '.join(get_args(EngineName))}")
    kinds = {"reference": ReferenceEngine, "thread_pool": ThreadPoolEngine}
    kind = kinds.get(name, create_native)
    return kind(source, image_size, threads, max_pixels)
