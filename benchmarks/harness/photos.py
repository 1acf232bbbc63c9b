"""JPEGs of ImageNet's sizes, cut from real photographs on this machine or from a folder of the user's.

Noise, gradients and drawings decode at other speeds than photographs do, so pieces with little detail are
dropped. The same photographs give the same files.

    python -m benchmarks.harness.photos OUT --count 1024 [--photos DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness.photo_sources import CURE, computed_picture, find_photos, pictures_below
from fastsemi.common.errors import UserError

QUALITY = 90
MIN_DETAIL = 0.3  # bytes per pixel at QUALITY: less is sky, blur or a plain wall
MAX_PHOTOS = 64  # held in memory
FORMAT = 1  # of the cut; another number makes other files

_Part = tuple[Image.Image, tuple[int, int], tuple[int, int, int, int]]  # photograph, size, box


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height as ImageNet has them: mostly 500 x 375, some upright, the rest 400 to 640 wide."""
    u = rng.random()
    if u < 0.5:
        return 500, 375
    if u < 0.65:
        return 375, 500
    long = int(rng.integers(400, 641))
    short = round(long * rng.uniform(0.66, 1.0))
    return (long, short) if rng.random() < 0.8 else (short, long)


def pieces(photos: Sequence[Path], count: int, seed: int = 0) -> Iterator[bytes]:
    """Cut `count` JPEGs (quality 90, 4:2:0), a random part of each photograph in turn, scaled down.

    Raises:
        UserError: The photographs are too small, unreadable or without detail.
    """
    rng, made, tried = np.random.default_rng(seed), 0, 0
    chosen = [photos[i] for i in rng.permutation(len(photos))[:MAX_PHOTOS]]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        good = [photo for photo in pool.map(_open, chosen) if photo is not None]
        order = cycle(good)
        while made < count:
            if not good or tried > 50 * (made + len(chosen)):
                raise UserError(f"the {len(chosen)} photographs are too small or without detail; {CURE}")
            parts = [_draw_part(next(order), rng) for _ in range(64)]
            tried += len(parts)
            for data in pool.map(_piece, (part for part in parts if part is not None)):
                if data is not None and made < count:
                    made += 1
                    yield data


def _open(path: Path) -> Image.Image | None:
    """The photograph, at most 2400 pixels wide and high; None for one that is smooth all over.

    2400 pixels are enough for any part, and a smooth photograph would cost many refused parts.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2400, 2400))
            photo = image.convert("RGB")
    except OSError as error:
        raise UserError(f"cannot read photograph {path}: {error}; remove it or give another folder") from None
    photo.thumbnail((2400, 2400))
    small = photo.copy()
    small.thumbnail((500, 500))
    return photo if len(_jpeg(small)) >= MIN_DETAIL / 2 * small.width * small.height else None


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def _draw_part(photo: Image.Image, rng: np.random.Generator) -> _Part | None:
    """Which part of a photograph to scale to which size; None where the photograph is too small for it."""
    width, height = draw_size(rng)
    room = min(photo.width / width, photo.height / height)
    if room < 1:
        return None
    scale = rng.uniform(min(room, 1.5), min(room, 4.5))  # source pixels per pixel
    w, h = int(width * scale), int(height * scale)
    x, y = (int(u) for u in rng.random(2) * (photo.width - w, photo.height - h))
    return photo, (width, height), (x, y, x + w, y + h)


def _piece(part: _Part) -> bytes | None:
    """The part as a JPEG, or None where it has too little detail."""
    photo, size, box = part
    data = _jpeg(photo.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))
    return data if len(data) >= MIN_DETAIL * size[0] * size[1] else None


def cut(out: Path, count: int, photos: Sequence[Path] | None = None, seed: int = 0) -> list[Path]:
    """Fill the folder `out` with `count` JPEGs; one that is complete already is kept.

    Args:
        out: Made if missing, with everything that differs between two cuts in the name of a subfolder.
        count: How many.
        photos: What to cut them from, by default what `find_photos` finds.
        seed: Of the sizes and places.

    Returns:
        The files, in order.

    Raises:
        UserError: No photographs, or bad ones.
    """
    photos = find_photos() if photos is None else list(photos)
    stamp = [FORMAT, MIN_DETAIL, QUALITY, count, seed, *((str(p), p.stat().st_size) for p in photos)]
    folder = out / f"{count}-{hashlib.sha256(repr(stamp).encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out, prefix=".cutting-"))
        try:
            for i, data in enumerate(pieces(photos, count, seed)):
                (part / f"{i:06d}.jpg").write_bytes(data)
            part.chmod(0o755)
            os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            if not folder.is_dir():  # another process finished first
                raise
    return sorted(folder.glob("*.jpg"))


def jpegs(out: Path, count: int) -> tuple[list[Path], str]:
    """`count` JPEGs cut from this machine's photographs, or from computed pictures where it has none.

    Returns:
        The files, and what they are.
    """
    try:
        return cut(out, count), "pieces of photographs"
    except UserError:
        pass
    drawn = out / "pictures"
    drawn.mkdir(parents=True, exist_ok=True)
    for seed in range(4):
        path = drawn / f"{seed}.jpg"
        if not path.exists():
            computed_picture(1200, 1000, seed).save(path, quality=95)
    return cut(out, count, sorted(drawn.glob("*.jpg"))), "pieces of computed pictures (no photographs here)"


def main() -> int:
    """Cut a folder full."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--photos", type=Path, help="folder of photographs to cut from")
    args = parser.parse_args()
    try:
        files = cut(args.out, args.count, pictures_below(args.photos) if args.photos else None)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(p.stat().st_size for p in files) / len(files)
    print(f"{len(files)} JPEGs of {size / 1024:.0f} KiB on average in {files[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
