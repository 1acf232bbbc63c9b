"""What `fastsemi doctor --data` finds of images that were put in twice on purpose, and how fast.

`python -m benchmarks.loading.doubles FOLDER...` looks at every image of each folder, then once more beside a
changed copy of each. It prints for every kind of change how many copies are found with their original, and
before that how many images are like another one as they are. Some of those are true duplicates of the data
itself: only a look at them tells.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.rgb import to_rgb
from fastsemi.loaders.index.formats import is_image_name
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.tools.health.likeness import Likeness, compare
from fastsemi.tools.health.views import small_views

_MOST = 3_000  # images of a folder


def _scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, Image.Resampling.BICUBIC)

    return change


def _encoded(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return Image.open(file).convert("RGB")


def _cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        x, y = max(1, round(share * image.width)), max(1, round(share * image.height))
        return image.crop((x, y, image.width - x, image.height - y))

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": _scaled(0.5),
    "twice the size": _scaled(2),
    "JPEG of quality 70": _encoded,
    "JPEG of quality 70, half the size": lambda image: _encoded(_scaled(0.5)(image)),
    "1 % cut off each side": _cropped(0.01),
    "3 % cut off each side": _cropped(0.03),
    "mirrored": ImageOps.mirror,
}


def _look(folder: Path) -> tuple[list[str], Likeness, float]:
    """Names of all images of a folder, how they are alike, and the seconds that looking took."""
    # Copies are overwritten in place, which an index does not notice.
    config = DataConfig(
        root=folder, val=None, labels=LabelsConfig(fraction=1.0, validation=0.2), reindex=True
    )
    data = Data(config, LoaderConfig())
    images = data.open_unlabelled(folder)
    data.close()
    begun = time.perf_counter()
    found = compare([images], small_views([images], config, LoaderConfig()))
    names = [images.index.relative_path(i) for i in range(len(images.ids))]
    return names, found, time.perf_counter() - begun


def _pairs(found: Likeness, mirrored: bool) -> tuple[set[int], set[tuple[int, int]]]:
    """Images that are like an earlier one, and which two groups are linked."""
    links = found.mirrored if mirrored else found.near
    return set(links.left.tolist()) | set(links.right.tolist()), set(
        zip(links.left.tolist(), links.right.tolist(), strict=True)
    )


def _recall(names: list[str], found: Likeness, mirrored: bool) -> float:
    """The share of the changed copies that are found with their original."""
    at = {name: n for n, name in enumerate(names)}
    _, links = _pairs(found, mirrored)
    hits = []
    for name in (name for name in names if name.startswith("original/")):
        a, b = int(found.look[at[name]]), int(found.look[at["copy" + name.removeprefix("original")]])
        hits.append((a == b and not mirrored) or (min(a, b), max(a, b)) in links)
    return sum(hits) / len(hits)


def measure(folder: Path, out: Path) -> None:
    """Print what is found of a folder, and of it beside each kind of changed copies."""
    files = sorted(path for path in folder.rglob("*") if is_image_name(path.name))
    random.Random(0).shuffle(files)
    files = files[:_MOST]
    _, alone, seconds = _look(folder)
    count = len(alone.look)
    sys.stdout.write(f"{folder}: {count:,} images in {seconds:.1f} s, {count / seconds:,.0f} a second\n")
    (out / "original").mkdir()
    (out / "copy").mkdir()
    for n, file in enumerate(files):
        with Image.open(file) as image:
            to_rgb(image).save(out / "original" / f"{n}.png", compress_level=1)
    names, alone, _ = _look(out / "original")
    sys.stdout.write(
        f"{len(files):,} of them alone: {len(_pairs(alone, False)[0])} nearly the same as another, "
        f"{len(_pairs(alone, True)[0])} mirror images\n"
    )
    for what, change in CHANGES.items():
        for n in range(len(files)):
            with Image.open(out / "original" / f"{n}.png") as image:
                change(image.convert("RGB")).save(out / "copy" / f"{n}.png", compress_level=1)
        names, found, _ = _look(out)
        sys.stdout.write(f"{what}: {100 * _recall(names, found, what == 'mirrored'):.1f} % found\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of images")
    for folder in parser.parse_args().folders:
        with tempfile.TemporaryDirectory() as out:
            measure(folder, Path(out))


if __name__ == "__main__":
    main()
