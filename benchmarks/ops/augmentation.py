"""CPU augmentation of uint8 images: fastsemi's batch operator against its PyTorch reference and the peers.

    python -m benchmarks.ops.augmentation [--count 64] [--size 224] [--threads 2] [--json OUT.json]

`weak` is the colour jitter of 0.4, `strong` is RandAugment `rand-m9-mstd0.5-inc1`, both without crop and
flip, of photographs in memory. timm and torchvision v2 (which warps tensors bilinearly) draw operations of
the same kinds and strength for one image at a time, in as many processes as the operator has threads; the
time to send images between processes is not in it.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness import photos
from benchmarks.harness.harness import Case, measure, ratio, rows, write
from benchmarks.loading.loaders import limited
from benchmarks.loading.peers import FILL, JITTER, RANDAUGMENT, timm_transforms, v2_transforms
from fastsemi import _native
from fastsemi.common.errors import UserError
from fastsemi.kernels.augment.cpu import augment_in_torch, planned_layers
from fastsemi.loaders.plan.draws import AugmentConfig, View, plan_view

NATIVE = "native"
KINDS = ("weak", "strong")

_images: list = []  # in a worker: what the transforms take
_transforms: dict[str, Callable] = {}


def read_pixels(count: int, size: int) -> NDArray[np.uint8]:
    """Photographs [count, size, size, 3]."""
    pieces = photos.pieces(photos.find_photos(), count)
    pictures = [
        Image.open(io.BytesIO(data)).resize((size, size), Image.Resampling.BICUBIC) for data in pieces
    ]
    return np.stack([np.asarray(picture) for picture in pictures])


def draw_layers(kind: str, count: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Operations and arguments [layers, B] as training plans them."""
    weak, strong = AugmentConfig(color_jitter=JITTER, randaugment=""), AugmentConfig(randaugment=RANDAUGMENT)
    view, config = (View.WEAK, weak) if kind == "weak" else (View.STRONG, strong)
    ids, sizes = np.arange(count), np.full((count, 2), size, np.int32)
    plan = plan_view(
        seed=0, epoch=np.zeros_like(ids), ids=ids, sizes=sizes, view=view, config=config, image_size=size
    )
    return planned_layers(plan, count)


def _start_worker(peer: str, pixels: NDArray[np.uint8]) -> None:
    from torchvision import transforms as v1

    torch.set_num_threads(1)
    random.seed(os.getpid())
    np.random.seed(os.getpid())
    if peer == "timm":
        _images.extend(Image.fromarray(p) for p in pixels)
        lists = timm_transforms(interpolation=Image.Resampling.BICUBIC)
    else:
        _images.extend(torch.from_numpy(p).permute(2, 0, 1).contiguous() for p in pixels)
        lists = v2_transforms()
    _transforms.update(zip(KINDS, map(v1.Compose, lists), strict=True))


def _transform(kind: str, index: int) -> None:
    result = _transforms[kind](_images[index])
    if isinstance(result, Image.Image):
        np.array(result)  # a tensor's pixels are there already


def cases(kind: str, pixels: NDArray[np.uint8], threads: int, peers: dict[str, Pool]) -> list[Case]:
    """The operator, on each instruction set, first; then the reference and the peers."""
    count, size = pixels.shape[:2]
    op, arg = draw_layers(kind, count, size)
    out = np.empty_like(pixels)
    names = _native.available_augment_kernels()
    runs: dict[str, Callable[[], object]] = {
        (f"{NATIVE} ({name})" if name != names[0] else NATIVE): partial(
            _native.Augmenter(threads, name).run, pixels, op, arg, FILL, out
        )
        for name in names
    }
    images = torch.from_numpy(pixels)
    runs["reference (PyTorch)"] = partial(augment_in_torch, images, op, arg, fill=FILL)
    for name, pool in peers.items():
        runs[name] = partial(pool.map, partial(_transform, kind), range(count), chunksize=max(1, count // 16))
    details = {"kind": kind, "kernels": names[0]}
    return [Case(f"augment/{kind}/{name}", run, count, details=details) for name, run in runs.items()]


def run(args: argparse.Namespace) -> list[dict]:
    """Rows of both kinds, printed as they are measured."""
    found = []
    with limited(args.threads):
        pixels = read_pixels(args.count, args.size)
        context = multiprocessing.get_context("spawn")
        peers = {
            "timm (Pillow)": context.Pool(args.threads, _start_worker, ("timm", pixels)),
            "torchvision v2": context.Pool(args.threads, _start_worker, ("v2", pixels)),
        }
        for kind in KINDS:
            measured = measure(cases(kind, pixels, args.threads, peers), rounds=args.rounds, warmup=2)
            configuration = {"count": args.count, "size": args.size}
            group = rows(measured, unit="images_per_s", threads=args.threads, configuration=configuration)
            for row in group:
                row["native_is"] = ratio(group[0], row)
                share = row["native_is"]
                print(
                    f"{row['name']:36}{row['median']:9.0f} images/s ({row['p20']:.0f} to {row['p80']:.0f}), "
                    f"native is {share['median']:.2f} x ({share['p20']:.2f} to {share['p80']:.2f})"
                )
            found += group
        for pool in peers.values():
            pool.terminate()
    return found


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=64, help="images of a batch")
    parser.add_argument("--size", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args()
    try:
        found = run(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        write(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
