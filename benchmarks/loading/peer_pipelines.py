"""Pipelines of other projects that `benchmarks.loading.loaders` compares with: DALI, FFCV and SPDL."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.loading.peers import (
    AREA,
    FILL,
    JITTER,
    RATIO,
    AbsentError,
    Loader,
    Setup,
    paper,
    torchvision_v2,
)
from fastsemi.loaders.plan.windows import TRIES, random_resized_crop

DALI_AHEAD = 2  # batches that DALI works on ahead, its default
QUALITY = 90  # FFCV's default for JPEGs


class DaliPeer:
    """DALI's own operators; runs are scheduled by hand, so that nothing is left running after a pass."""

    def __init__(self, setup: Setup, device_id: int | None, two_decodes: bool):
        self._batches, self._batch = len(setup.files) // setup.batch, setup.batch
        self._gpu = device_id is not None
        self._pipeline = _dali_pipeline(setup, device_id, two_decodes)
        self._pipeline.build()

    def run_pass(self, times: int = 1) -> int:
        """As many batches as the files fill."""
        batches = times * self._batches
        count, ahead = 0, min(DALI_AHEAD, batches)
        for _ in range(ahead):
            self._pipeline.schedule_run()
        for done in range(batches):
            weak, strong = self._pipeline.share_outputs()
            if not self._gpu:  # into PyTorch's memory, as its own iterator does; DALI reuses its buffers
                weak, strong = (torch.from_numpy(view.as_array()) for view in (weak, strong))
            count += len(weak)
            self._pipeline.release_outputs()
            if done + ahead < batches:
                self._pipeline.schedule_run()
        if self._gpu:
            torch.cuda.synchronize()
        return count

    def close(self) -> None:
        """Drop the pipeline, and its threads with it."""
        del self._pipeline


def _dali_pipeline(setup: Setup, device_id: int | None, two_decodes: bool) -> Any:
    from nvidia import dali
    from nvidia.dali.auto_aug.rand_augment import rand_augment

    fn: Any = dali.fn  # its stubs know neither keyword dictionaries nor conditionals
    types: Any = dali.types
    pipeline_def: Any = dali.pipeline_def
    size = setup.image_size
    decoder = "cpu" if device_id is None else "mixed"
    crop = {"random_area": AREA, "random_aspect_ratio": RATIO}
    resize = {"interp_type": types.INTERP_CUBIC, "antialias": True}

    @pipeline_def(
        batch_size=setup.batch,
        num_threads=setup.threads,
        device_id=device_id,
        prefetch_queue_depth=DALI_AHEAD,
        enable_conditionals=True,
        seed=1,
    )
    def define() -> tuple:
        encoded, _ = fn.readers.file(files=list(setup.files), random_shuffle=True)
        if two_decodes:
            parts = [fn.decoders.image_random_crop(encoded, device=decoder, **crop) for _ in range(2)]
            views = [fn.resize(part, resize_x=size, resize_y=size, **resize) for part in parts]
        else:
            image = fn.decoders.image(encoded, device=decoder)
            views = [fn.random_resized_crop(image, size=size, **crop, **resize) for _ in range(2)]
        weak, strong = (fn.flip(view, horizontal=fn.random.coin_flip()) for view in views)
        if setup.augment:
            factors = [fn.random.uniform(range=(1 - JITTER, 1 + JITTER)) for _ in range(3)]
            weak = fn.color_twist(weak, brightness=factors[0], contrast=factors[1], saturation=factors[2])
            # One operation always, for timm's two with probability 1/2 each.
            strong = rand_augment(
                strong, n=1, m=9, num_magnitude_bins=11, shape=(size, size), fill_value=FILL[0]
            )
        return weak, strong

    return define()


def dali(setup: Setup, *, gpu: bool = False, two_decodes: bool = False) -> Loader:
    """Stock DALI: files, decode, random-resized-crop with antialiased cubic filter.

    Args:
        setup: The comparison.
        gpu: Decode and resize on the first GPU; the batches stay there.
        two_decodes: Decode each view's window by itself.
    """
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise AbsentError(f"{error}; pip install nvidia-dali-cuda130") from None
    if gpu and not torch.cuda.is_available():
        raise AbsentError("no CUDA GPU")
    return DaliPeer(setup, 0 if gpu else None, two_decodes)


class FfcvPeer:
    """A .beton with two image fields, because one field gives one view."""

    def __init__(self, setup: Setup):
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader as FfcvLoader
        from ffcv.loader import OrderOption
        from ffcv.transforms import RandomHorizontalFlip, ToTensor

        path = setup.work / "two_fields.beton"
        if not path.exists():
            names = setup.work / "files.txt"
            names.write_text("\n".join(setup.files))
            # FFCV writes from forked processes, which are safe only where no threads run.
            command = [sys.executable, "-m", "benchmarks.loading.peer_pipelines", str(names), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
            if done.returncode:
                raise AbsentError(f"FFCV cannot write its file: {done.stderr.strip().splitlines()[-1]}")
        size = (setup.image_size, setup.image_size)

        def view() -> list:
            crop = RandomResizedCropRGBImageDecoder(size, scale=AREA, ratio=RATIO)
            return [crop, RandomHorizontalFlip(), ToTensor()]

        self._loader = FfcvLoader(
            str(path),
            batch_size=setup.batch,
            num_workers=setup.threads,
            os_cache=True,
            order=OrderOption.RANDOM,
            pipelines={"weak": view(), "strong": view()},
            drop_last=True,
        )

    def run_pass(self, times: int = 1) -> int:
        """Epochs."""
        return sum(len(weak) for _ in range(times) for weak, strong in self._loader)

    def close(self) -> None:
        """FFCV's threads end with each epoch."""


def ffcv(setup: Setup) -> Loader:
    """Stock FFCV: JPEGs of quality 90 in a .beton, resized by area averaging, the only filter it has."""
    try:
        import ffcv.loader  # noqa: F401
    except ImportError as error:
        raise AbsentError(f"{error}; pip install ffcv") from None
    if setup.augment:
        raise AbsentError("FFCV has no RandAugment")
    return FfcvPeer(setup)


class _Twice:
    def __init__(self, files: list[str]):
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[Image.Image, Image.Image]:
        image = Image.open(self._files[i]).convert("RGB")
        return image, image


def _write_two_fields(names: Path, out: Path) -> None:
    from ffcv.fields import RGBImageField
    from ffcv.writer import DatasetWriter

    field = partial(RGBImageField, write_mode="jpg", jpeg_quality=QUALITY)
    part = out.with_suffix(".part")
    writer = DatasetWriter(str(part), {"weak": field(), "strong": field()}, num_workers=2)
    writer.from_indexed_dataset(_Twice(names.read_text().splitlines()))
    part.rename(out)


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
        builder = builder.aggregate(setup.batch, drop_last=True).pipe(self._collate).add_sink(DALI_AHEAD)
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


def spdl(setup: Setup) -> Loader:
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


PEERS: dict[str, Callable[[Setup], Loader]] = {
    "paper (Pillow, timm)": paper,
    "torchvision v2": torchvision_v2,
    "DALI stock": dali,
    "DALI stock, GPU": partial(dali, gpu=True),
    "DALI stock, GPU, two decodes": partial(dali, gpu=True, two_decodes=True),
    "FFCV stock, two fields": ffcv,
    "SPDL": spdl,
}

if __name__ == "__main__":
    _write_two_fields(Path(sys.argv[1]), Path(sys.argv[2]))
