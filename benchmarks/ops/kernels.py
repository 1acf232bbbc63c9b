"""Time of the kernels: Triton, plain PyTorch, PyTorch compiled, and what works sample by sample in Python.

    python -m benchmarks.ops.kernels --json OUT.json

On a GPU every case finds the L2 cache flushed, and `mix` is set against the bandwidth of a plain copy. On a
CPU, where Triton runs in its interpreter alone (TRITON_INTERPRET=1, for tests), the reference is set against
the loop over samples; augmentation has a row of C++, which a CPU takes where it was built. Freed memory is
kept there, as training keeps it, and time is the processors'; with OMP_NUM_THREADS=1 nothing waits in it.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.harness import (
    Case,
    DeviceTimer,
    Timer,
    measure,
    processor_seconds,
    ratio,
    rows,
    write,
)
from benchmarks.ops.augment_kernels import PEER, augment_cases
from fastsemi.common.allocator import keep_memory
from fastsemi.kernels.dispatch import Kernels, select
from fastsemi.kernels.reference.mix import corrected, mix

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLUSH_BYTES = 256 * 2**20  # several times the L2 cache of any GPU
Pixels = dict[str, Any]


def loop_mix(images: Tensor, plan: dict[str, Tensor], pixels: Pixels) -> Tensor:
    """Mixing one sample at a time on normalised images, each weight read by the host.

    This is what eager code for one image does when it is put in a loop: about two launches and one wait for
    every sample.
    """
    device, dtype = images.device, pixels["dtype"]
    mean, std = (torch.tensor(v, device=device)[:, None, None] * 255 for v in (MEAN, STD))
    x = (images.permute(0, 3, 1, 2).float() - mean) / std
    for i in pixels.get("erase_index", torch.empty(0)).tolist():
        left, top, width, height = pixels["erase_box"][i].tolist()
        x[i, :, top : top + height, left : left + width] = torch.randn(3, height, width, device=device)
    weight, boxes = corrected(**plan, size=images.shape[1])
    mixed = x.clone()
    for i in range(len(x)):
        j, lam = int(plan["partner"][i].item()), weight[i].item()
        left, top, width, height = boxes[i].tolist()
        if width:
            mixed[i, :, top : top + height, left : left + width] = x[
                j, :, top : top + height, left : left + width
            ]
        else:
            mixed[i] = x[i] * lam + x[j] * (1 - lam)
    return mixed.to(dtype)


def mix_bytes(plan: dict[str, Tensor], size: int, dtype: torch.dtype) -> int:
    """Bytes that mixing must move: every byte of an image once per use, every result once."""
    lam, boxes = corrected(**plan, size=size)
    box = boxes[:, 2] * boxes[:, 3]
    mixup = (lam < 1) & (box == 0)
    read = 3 * (size * size - box + torch.where(mixup, size * size, box)).sum()
    return int(read) + 3 * len(box) * size * size * dtype.itemsize


def mix_example(
    batch: int, size: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor], Pixels]:
    """Images, plan and options: a quarter of the samples has an erased box of 2 to 33 % of the area.

    Weights are those of probabilistic pseudo mixup with evenly spread confidences.
    """
    g = torch.Generator().manual_seed(0)
    confidence = torch.rand(batch, generator=g) * 0.9 + 0.05
    partner = torch.randperm(batch, generator=g)
    plan = {
        "partner": partner,
        "lam": confidence / (confidence + confidence[partner]),
        "cutmix": torch.rand(batch, generator=g) < 0.5,
        "centre": torch.rand(batch, 2, generator=g),
    }
    side = (size * (torch.rand(batch, generator=g) * 0.31 + 0.02).sqrt()).long().clamp(min=1)
    low = (torch.rand(batch, 2, generator=g) * (size - side)[:, None]).long()
    box = torch.cat([low, side[:, None], side[:, None]], dim=1)
    box[torch.rand(batch, generator=g) >= 0.25] = 0
    pixels = {
        "erase_box": box,
        "erase_key": torch.randint(2**32, (batch, 2), generator=g),
        "erase_index": box[:, 2].nonzero().flatten(),
    }
    images = torch.randint(256, (batch, size, size, 3), generator=g, dtype=torch.uint8)
    moved = {name: value.to(device) for name, value in pixels.items()}
    plan = {name: value.to(device) for name, value in plan.items()}
    return images.to(device), plan, {**moved, "mean": MEAN, "std": STD, "dtype": dtype}


def mix_cases(args: argparse.Namespace, timer: Timer, kinds: dict[str, Kernels]) -> list[Case]:
    """Mixing of a micro-batch, and a copy that moves as many bytes."""
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    images, plan, pixels = mix_example(args.batch, args.size, args.device, dtype)
    moved = mix_bytes(plan, args.size, dtype)
    runs: dict[str, Callable[[], object]] = {
        f"mix {name}": partial(kernels.mix, images, **plan, **pixels) for name, kernels in kinds.items()
    }
    if args.compile:
        runs["mix compiled"] = partial(torch.compile(mix), images, **plan, **pixels)
    runs["mix loop"] = partial(loop_mix, images, plan, pixels)
    source = torch.empty(moved // 2, dtype=torch.uint8, device=args.device)
    runs["copy"] = partial(torch.empty_like(source).copy_, source)
    return [Case(name, run, args.batch, timer, {"bytes": moved}) for name, run in runs.items()]


def row_cases(args: argparse.Namespace, timer: Timer, kinds: dict[str, Kernels]) -> list[Case]:
    """Pseudo labels, and the loss with its gradient."""
    g = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    logits = torch.randn(args.batch, args.classes, generator=g).to(args.device, dtype)
    labels = torch.randint(args.classes, (2, args.batch), generator=g).to(args.device)
    lam, weight = torch.rand(2, args.batch, generator=g).to(args.device)
    leaf = logits.clone().requires_grad_()

    def train(loss: Callable[..., Tensor]) -> Tensor:
        value = loss(leaf, *labels, lam, smoothing=0.1, weight=weight)
        return torch.autograd.grad(value.sum(), leaf)[0]

    labellers = {name: kernels.pseudo_label for name, kernels in kinds.items()}
    losses = {name: kernels.two_label_cross_entropy for name, kernels in kinds.items()}
    if args.compile:
        labellers["compiled"] = torch.compile(kinds["torch"].pseudo_label)
        losses["compiled"] = torch.compile(kinds["torch"].two_label_cross_entropy)
    read = {"bytes": logits.nbytes}
    # Forward reads the logits, backward reads them again and writes the gradient.
    both = {"bytes": 3 * logits.nbytes}
    cases = [
        Case(f"pseudo_label {n}", partial(f, logits), args.batch, timer, read) for n, f in labellers.items()
    ]
    return cases + [
        Case(f"soft_ce {n}", partial(train, f), args.batch, timer, both) for n, f in losses.items()
    ]


def main() -> None:
    """Measure, print and write."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--plots", type=Path, help="folder for a plot as PNG and SVG")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if gpu else "cpu")
    parser.add_argument("--batch", type=int, default=256 if gpu else 32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=gpu)
    parser.add_argument("--seconds", type=float, help="of all groups; what is measured by then is kept")
    args = parser.parse_args()
    end = time.monotonic() + (args.seconds or math.inf)
    on_gpu = args.device == "cuda"
    timer: Timer = DeviceTimer(repeats=5, flush_bytes=FLUSH_BYTES) if on_gpu else processor_seconds
    if not on_gpu:
        keep_memory()  # as training does
    kinds = {"torch": select("torch", args.device)}
    if on_gpu or os.environ.get("TRITON_INTERPRET") == "1":
        kinds["triton"] = select("triton", args.device)
    settings: dict[str, Any] = {name: getattr(args, name) for name in ("batch", "size", "classes")}
    if not on_gpu:
        settings["clock"] = "processors' time"
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    found: list[dict[str, Any]] = []
    common = args.batch, args.size, args.device, timer, kinds
    groups: tuple[Callable[[], list[Case]], ...] = (
        partial(mix_cases, args, timer, kinds),
        partial(row_cases, args, timer, kinds),
        partial(augment_cases, "weak", *common),
        partial(augment_cases, "strong", *common),
    )
    for i, make in enumerate(groups):
        left = max((end - time.monotonic()) / (len(groups) - i), 1e-3)
        measured = measure(make(), rounds=args.rounds, warmup=3 if on_gpu else 1, seconds=left)
        threads = torch.get_num_threads()
        group = rows(measured, unit="ms", threads=threads, configuration=settings, device=name)
        for row in group:
            row["gb_per_s"] = row["bytes"] / row["ms"] / 1e6
            if group[-1]["name"] == "copy":
                row["of_copy"] = ratio(row, group[-1])["median"]  # the copy moves as many bytes
            if group[-1]["name"].endswith(PEER):
                row["of_peer"] = ratio(row, group[-1])["median"]
            print(f"{row['name']:32}{row['ms']:10.3f} ms {row['gb_per_s']:9.1f} GB/s")
        found += group
        if args.json:
            write(args.json, found)
    if args.plots:
        from benchmarks.harness import plots

        plots.roofline(found, args.plots)


if __name__ == "__main__":
    main()
