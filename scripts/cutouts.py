"""Folders of pictures from cut-outs: what the scripts of picture sets have in common."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
SIMILAR = 0.97
EVALUATION = 0.4


def write(
    files_of: dict[str, list[Path]], source: Path, package: str, object_name: Callable[[Path], str]
) -> int:
    """Write `train/<class>/*.png` and `val/<class>/*.png` into the folder of the command line.

    Each cut-out is laid on white, padded to a square and made at most 256 pixels wide. Of each class 40 % are
    for evaluation, chosen by a hash; pictures of one object stay on one side: those that `object_name` calls
    the same, and those whose pixels, or the mirrored ones, correlate by over 0.97.

    Args:
        files_of: The files of each class.
        source: The folder that the class's folders are in.
        package: Debian's package that brings it.
        object_name: What pictures of one object have in common.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=f"Pictures of Debian's {package} as folders of classes.")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    out = parser.parse_args().out
    if not source.is_dir():
        sys.stderr.write(f"{source} is not there; apt-get install {package}\n")
        return 2
    if out.exists():
        sys.stderr.write(f"{out} exists; remove it or give another folder\n")
        return 2
    for name, files in files_of.items():
        pictures = {file: _compose(file) for file in files}
        groups = _objects(pictures, object_name)
        groups.sort(key=lambda g: hashlib.sha256(str(g[0]).encode()).hexdigest())
        wanted, taken = round(EVALUATION * len(files)), 0
        for group in groups:
            evaluates = taken + len(group) <= wanted
            taken += len(group) * evaluates
            folder = out / ("val" if evaluates else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in group:
                pictures[file].save(folder / "__".join(file.relative_to(source).parts[1:]))
        sys.stdout.write(f"{name}: {len(files) - taken} to train, {taken} to evaluate\n")
    return 0


def _compose(path: Path) -> Image.Image:
    """A cut-out on white, square, at most SIDE pixels wide."""
    image = Image.open(path).convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.convert("RGB").resize((min(side, SIDE),) * 2, Image.Resampling.LANCZOS)


def _objects(pictures: dict[Path, Image.Image], object_name: Callable[[Path], str]) -> list[list[Path]]:
    """The pictures of a class, grouped by object."""
    files = list(pictures)
    group = list(range(len(files)))

    def join(a: int, b: int) -> None:
        old, new = group[a], group[b]
        group[:] = [new if g == old else g for g in group]

    first: dict[str, int] = {}
    for i, file in enumerate(files):
        join(i, first.setdefault(object_name(file), i))
    small = np.stack([np.asarray(p.convert("L").resize((24, 24)), np.float64) for p in pictures.values()])
    plain, mirrored = _unit(small), _unit(small[:, :, ::-1])
    alike = np.maximum(plain @ plain.T, plain @ mirrored.T) > SIMILAR
    for a, b in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
        join(int(a), int(b))
    found: dict[int, list[Path]] = defaultdict(list)
    for i, file in enumerate(files):
        found[group[i]].append(file)
    return list(found.values())


def _unit(images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
