"""SPDL with FFmpeg as a peer."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from benchmarks.loading.comparison import AREA, RATIO, AbsentError, MeasuredLoader, Setup
from fastsemi.loaders.plan.windows import TRIES, random_resized_crop

AHEAD = 2  # batches that wait for the consumer


class SpdlPeer:
    """SPDL's threads over FFmpeg: one decode, and a filter graph that splits it into the two views."""

    def __init__(self, setup: Setup):
        self._setup, self._rng = setup, np.random.default_rng(0)

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
            .pipe(self._decode, concurrency=setup.threads)
        )
        builder = builder.aggregate(setup.batch, drop_last=True).pipe(self._collate).add_sink(AHEAD)
        pipeline = builder.build(num_threads=setup.threads)
        with pipeline.auto_stop():
            return sum(len(weak) for weak, strong in pipeline)

    def _decode(self, item: tuple[str, list[int], list[int], bool, bool]) -> tuple:
        io: Any = importlib.import_module("spdl.io")

        path, weak, strong, flip_weak, flip_strong = item
        packets = io.demux_image(path)
        source = io.get_buffer_desc(packets.codec)
        frames = io.decode_packets(packets, filter_desc=None)
        graph = io.FilterGraph(
            f"{source} [in];[in] split [a][b];"
            f"[a] {self._filter(weak, flip_weak)},buffersink@weak;"
            f"[b] {self._filter(strong, flip_strong)},buffersink@strong"
        )
        graph.add_frames(frames)
        graph.flush()
        return graph.get_frames(key="buffersink@weak"), graph.get_frames(key="buffersink@strong")

    def _filter(self, window: list[int], flip: bool) -> str:
        left, top, width, height = window
        size = self._setup.image_size
        parts = [f"crop={width}:{height}:{left}:{top}", f"scale={size}:{size}:flags=bicubic"]
        return ",".join([*parts, *["hflip"] * flip, "format=pix_fmts=rgb24"])

    def _collate(self, frames: list[tuple]) -> tuple[torch.Tensor, torch.Tensor]:
        io: Any = importlib.import_module("spdl.io")

        weak, strong = (io.to_torch(io.convert_frames(list(view))) for view in zip(*frames, strict=True))
        return weak, strong

    def close(self) -> None:
        """Threads end with each pass."""


def spdl(setup: Setup) -> MeasuredLoader:
    """SPDL with FFmpeg's decoder and bicubic scaler."""
    try:
        from spdl import io

        io.FilterGraph("buffer=video_size=8x8:pix_fmt=rgb24:time_base=1/1:pixel_aspect=1/1,null,buffersink")
    except ImportError as error:
        raise AbsentError(f"{error}; pip install spdl-core spdl-io") from None
    except RuntimeError:
        raise AbsentError(
            "SPDL finds no FFmpeg; apt install libavfilter8 libavdevice59 (or ffmpeg)"
        ) from None
    if setup.augment:
        raise AbsentError("SPDL has no RandAugment")
    return SpdlPeer(setup)
