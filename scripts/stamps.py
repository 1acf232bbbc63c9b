"""Real pictures that work offline: Debian's cut-outs as folders of eight classes.

    apt-get install tuxpaint-stamps-default
    python scripts/stamps.py data/stamps

writes `train/<class>/*.png` and `val/<class>/*.png`. The classes are the eight folders with most pictures,
713 in all. Each cut-out is laid on white, padded to a square and made at most 256 pixels wide. Of each class
40 % are for evaluation, chosen by a hash; pictures of one object stay on one side: those whose names differ
by a number, a pose or a mirror image, and those whose pixels, or the mirrored ones, correlate by over 0.97.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path("/usr/share/tuxpaint/stamps")
CLASSES = ("animals", "food", "household", "plants", "seasonal", "symbols", "town", "vehicles")
SIDE = 256
SIMILAR = 0.97
EVALUATION = 0.4

_POSES = r"(_mirror|_filled|_outlined?|[_-]photo|_closed|_open|_left|_right|_with_[a-z]+|_eating|_flying)$"
_NUMBER = r"(-[a-j]|[-_]?\d+[ab]?)$"
_KINDS = (
    "apple",
    "bunny",
    "cep",
    "chick",
    "dreydl",
    "dumper",
    "garlic",
    "gnu",
    "orange",
    "sedan",
    "stoplight",
)
_KINDS += ("tower", "wrench", "xing")


def compose(path: Path) -> Image.Image:
    """A cut-out on white, square, at most SIDE pixels wide."""
    image = Image.open(path).convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.convert("RGB").resize((min(side, SIDE),) * 2, Image.Resampling.LANCZOS)


def object_name(path: Path) -> str:
    """What pictures of one object have in common in their names."""
    place, name = path.relative_to(SOURCE).parts[:-1], path.stem.lower()
    for _ in range(3):
        name = re.sub(_POSES, "", name)
    if "alphabets" in place:  # the same letter, filled or outlined, upper or lower case
        return f"{'sign' if 'asl' in place else 'letter'} {name}"
    if {"money", "math", "chess"} & set(place):  # white and black pieces have one form
        return f"{'/'.join(place)}/{re.sub(r'^[bw]_(?=[0-9])', '', name)}"
    if name.startswith("flower"):  # flower1 to flower10 are different flowers
        return name
    kind = next((kind for kind in _KINDS if name.startswith(kind)), None)
    return kind or re.sub(r"-(sitting|stand|baby)$", "", re.sub(_NUMBER, "", name))


def objects(files: list[Path]) -> list[list[Path]]:
    """The pictures of a class, grouped by object."""
    group = list(range(len(files)))

    def join(a: int, b: int) -> None:
        old, new = group[a], group[b]
        group[:] = [new if g == old else g for g in group]

    first: dict[str, int] = {}
    for i, file in enumerate(files):
        join(i, first.setdefault(object_name(file), i))
    small = np.stack([np.asarray(compose(file).convert("L").resize((24, 24)), np.float64) for file in files])
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


def main() -> int:
    """Write the folders; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    out = parser.parse_args().out
    if not SOURCE.is_dir():
        sys.stderr.write(f"{SOURCE} is not there; apt-get install tuxpaint-stamps-default\n")
        return 2
    if out.exists():
        sys.stderr.write(f"{out} exists; remove it or give another folder\n")
        return 2
    for name in CLASSES:
        files = sorted((SOURCE / name).rglob("*.png"))
        groups = sorted(objects(files), key=lambda g: hashlib.sha256(str(g[0]).encode()).hexdigest())
        wanted, taken = round(EVALUATION * len(files)), 0
        for group in groups:
            evaluates = taken + len(group) <= wanted
            taken += len(group) * evaluates
            folder = out / ("val" if evaluates else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in group:
                compose(file).save(folder / "__".join(file.relative_to(SOURCE / name).parts))
        sys.stdout.write(f"{name}: {len(files) - taken} to train, {taken} to evaluate\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
