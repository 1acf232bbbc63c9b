"""The DALI pipeline of the `dali` engine: encoded images and planned windows in, views out.

Imported only where DALI is installed.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia import dali
from PIL import Image

from fastsemi.loaders.engines.settings import DEVICE_PADDING, DaliOptions

fn: Any = dali.fn
types: Any = dali.types  # their stubs miss what is made at run time


class ViewPipeline:
    """Cuts V views out of each image of a batch; up to `options.depth` batches run at the same time.

    Views are the window, resized to S x S with DALI's antialiased cubic filter (Catmull-Rom, as Pillow's
    BICUBIC), then flipped. At the border of a window the filter reads pixels beyond it, where Pillow's crop
    has none: cutting windows out first would cost a quarter of the rate on a CPU.

    Args:
        views: V.
        capacity: Largest batch.
        image_size: S.
        threads: DALI's CPU threads.
        device: CUDA device, None for the CPU.
        paths: Whether images are given as file names, which DALI reads; else as bytes.
        options: How DALI decodes.
    """

    def __init__(
        self,
        views: int,
        capacity: int,
        image_size: int,
        threads: int,
        device: int | None,
        paths: bool,
        options: DaliOptions,
    ):
        self.views, self.capacity, self._paths, self._options = views, capacity, paths, options
        self._size, self._gpu = image_size, device is not None
        self._pipe = dali.Pipeline(
            batch_size=capacity,
            num_threads=threads,
            device_id=device,
            prefetch_queue_depth=options.depth,
            set_affinity=False,
        )
        with self._pipe:
            self._pipe.set_outputs(*self._graph())
        self._pipe.build()
        self._start()

    def _graph(self) -> list[Any]:
        given = fn.external_source(name="images", dtype=types.UINT8, ndim=1)
        encoded = fn.io.file.read(given) if self._paths else given
        decoding: dict[str, Any] = {
            "device": "mixed" if self._gpu else "cpu",
            "output_type": types.RGB,
            "adjust_orientation": False,  # as torchvision's ImageFolder
            "jpeg_fancy_upsampling": True,  # as libjpeg
        }
        if self._gpu:
            decoding["hw_decoder_load"] = self._options.hw_load
            decoding["affine"] = False  # else its threads keep to the cores that training's thread may have
            decoding["device_memory_padding"] = DEVICE_PADDING
        if self._options.decode == "whole":
            image = fn.decoders.image(encoded, **decoding)
        else:
            start = fn.external_source(name="start", dtype=types.INT64, ndim=1)
            extent = fn.external_source(name="extent", dtype=types.INT64, ndim=1)
            image = fn.decoders.image_slice(encoded, start, extent, axes=(0, 1), **decoding)
        return [self._view(image, v) for v in range(self.views)]

    def _view(self, image: Any, v: int) -> Any:
        start = fn.external_source(name=f"start{v}", dtype=types.FLOAT, ndim=1)
        end = fn.external_source(name=f"end{v}", dtype=types.FLOAT, ndim=1)
        flip = fn.external_source(name=f"flip{v}", dtype=types.INT32, ndim=0)
        view = fn.resize(
            image,
            roi_start=start,
            roi_end=end,
            size=[self._size, self._size],
            interp_type=types.INTERP_CUBIC,
            antialias=True,
        )
        return fn.flip(view, horizontal=flip, vertical=0)

    def _start(self) -> None:
        """Give DALI's first run the batches that it wants at once, as many as the pipeline is deep."""
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, "JPEG")
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            file.write(buffer.getvalue())
            file.flush()
            content = os.fsencode(file.name) if self._paths else buffer.getvalue()
            windows = np.array([[[0, 0, 16, 16]]] * self.views, np.int32)
            for _ in range(self._options.depth):
                self._feed([content], windows, np.zeros((self.views, 1), bool))
            self._pipe.schedule_run()
            for _ in range(self._options.depth):
                self._pipe.outputs()

    def _feed(self, images: Sequence[bytes], windows: NDArray[np.int32], flips: NDArray[np.bool_]) -> None:
        # DALI's axes are y, x
        start = windows[:, :, 1::-1].astype(np.int64)  # [V, B, 2]
        shape = windows[:, :, :1:-1].astype(np.int64)
        self._pipe.feed_input("images", [np.frombuffer(data, np.uint8) for data in images])
        if self._options.decode == "window":
            origin = start.min(0)  # [B, 2]
            self._pipe.feed_input("start", origin)
            self._pipe.feed_input("extent", (start + shape).max(0) - origin)
            start = start - origin
        for v in range(self.views):
            self._pipe.feed_input(f"start{v}", start[v].astype(np.float32))
            self._pipe.feed_input(f"end{v}", (start[v] + shape[v]).astype(np.float32))
            self._pipe.feed_input(f"flip{v}", flips[v].astype(np.int32))

    def launch(self, images: Sequence[bytes], windows: NDArray[np.int32], flips: NDArray[np.bool_]) -> None:
        """Start on a batch: B names or files, windows [V, B, 4], flips [V, B]."""
        self._feed(images, windows, flips)
        self._pipe.schedule_run()

    def land(self) -> list[Any]:
        """Wait for the oldest batch under way.

        Returns:
            The views, V DALI tensors [B, S, S, 3] which stay valid until the next call.

        Raises:
            RuntimeError: DALI could not read or decode an image; this object is of no more use then.
        """
        return [view.as_tensor() for view in self._pipe.outputs()]
