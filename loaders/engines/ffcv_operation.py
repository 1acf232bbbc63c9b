"""The FFCV operation of the `ffcv` engine: all planned views of an image from one decode.

Imported only where FFCV is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ffcv.libffcv import imdecode
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from numba import njit

from fastsemi.loaders.sources.beton_format import JPEG_MODE

# The records that the operation reads, one an image: what it needs of FFCV's metadata, and the number of
# stored bytes, for which FFCV would search its table.
RECORD = np.dtype([("mode", "<u1"), ("width", "<i8"), ("height", "<i8"), ("ptr", "<i8"), ("size", "<i8")])


@njit(nogil=True, cache=True)
def _taps(length: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """First source position and weights [out, taps] of an antialiased bicubic resize, as Pillow's."""
    scale = length / out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    first = np.zeros(out, np.int64)
    weights = np.zeros((out, int(np.ceil(support)) * 2 + 1), np.float32)
    for i in range(out):
        centre = (i + 0.5) * scale
        start = max(0, int(centre - support + 0.5))
        stop = min(length, int(centre + support + 0.5))
        total = 0.0
        row = np.zeros(stop - start)
        for k in range(start, stop):
            x = abs((k + 0.5 - centre) / stretch)
            if x < 1.0:
                row[k - start] = (1.5 * x - 2.5) * x * x + 1.0
            elif x < 2.0:
                row[k - start] = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
            total += row[k - start]
        first[i] = start
        for k in range(stop - start):
            weights[i, k] = np.float32(row[k] / total)
    return first, weights


@njit(nogil=True, cache=True)
def _resize(pixels: np.ndarray, window: np.ndarray, flip: bool, out: np.ndarray) -> None:
    """Resize `window` (left, top, width, height) of [H, W, 3] into [S, S, 3], first in y, then in x."""
    left, top, width, height = window[0], window[1], window[2], window[3]
    size = out.shape[0]
    first_y, weights_y = _taps(height, size)
    first_x, weights_x = _taps(width, size)
    row = np.empty(3 * width, np.float32)
    for y in range(size):
        row[:] = 0.0
        taps = min(weights_y.shape[1], height - first_y[y])
        for k in range(taps):
            weight = weights_y[y, k]
            source = pixels[top + first_y[y] + k].reshape(-1)[3 * left : 3 * (left + width)]
            for i in range(3 * width):
                row[i] += weight * np.float32(source[i])
        for x in range(size):
            r, g, b = np.float32(0.5), np.float32(0.5), np.float32(0.5)
            start = first_x[x]
            for k in range(min(weights_x.shape[1], width - start)):
                weight, at = weights_x[x, k], 3 * (start + k)
                r += weight * row[at]
                g += weight * row[at + 1]
                b += weight * row[at + 2]
            to = size - 1 - x if flip else x
            out[y, to, 0] = np.uint8(min(max(r, np.float32(0)), np.float32(255)))
            out[y, to, 1] = np.uint8(min(max(g, np.float32(0)), np.float32(255)))
            out[y, to, 2] = np.uint8(min(max(b, np.float32(0)), np.float32(255)))


class PlannedViews(Operation):  # type: ignore[misc]  # FFCV has no types
    """Decoder of an FFCV image field with output [V, S, S, 3].

    Its code takes `(batch_indices, (destination, buffer, failed), records, (file, windows, flips))`:

    - batch_indices: [N] samples of the batch to do
    - destination: [V, B, S, S, 3] uint8; buffer: uint8, room for the largest image; failed: [B] uint8, set to
      1 where libjpeg-turbo was not content with an image
    - records: [B] of RECORD
    - file: the whole `.beton`; windows: [V, B, 4]; flips: [V, B]. These come with each batch: nothing of the
      plan is compiled in.

    It allocates nothing that it does not free and raises nothing: FFCV's consumer waits for ever for an
    operation that raised.
    """

    def __init__(self, views: int, image_size: int):
        super().__init__()
        self.views, self.image_size = views, image_size

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """Shape and type of the output."""
        shape, dtype = (self.views, self.image_size, self.image_size, 3), np.dtype("<u1")
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles."""
        decode_jpeg = Compiler.compile(imdecode)
        resize = _resize
        views, jpeg = self.views, JPEG_MODE

        def views_of(batch_indices, memory, records, storage_state):  # type: ignore[no-untyped-def]
            destination, buffer, failed = memory
            file, windows, flips = storage_state
            for b in batch_indices:
                record = records[b]
                height, width = record["height"], record["width"]
                data = file[record["ptr"] : record["ptr"] + record["size"]]
                count = 3 * height * width
                if record["mode"] == jpeg:
                    pixels = buffer[:count].reshape(height, width, 3)
                    status = decode_jpeg(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                    if status != 0:
                        failed[b] = 1
                        continue
                else:
                    pixels = data[:count].reshape(height, width, 3)
                for v in range(views):
                    resize(pixels, windows[v, b], flips[v, b], destination[v, b])
            return destination

        return views_of
