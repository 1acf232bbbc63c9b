"""Where a benchmark's images come from: photographs of this machine, the user's folder, or computation."""

from __future__ import annotations

import importlib.util
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from fastsemi.common.errors import UserError

MIN_SIDE = 400  # of a photograph worth cutting
FALL = 1.25  # of the amplitudes of computed pictures with frequency: as many bytes a pixel as photographs

LARGE = (1600, 1200)  # pixels

# Folders of Debian's packages, and which of their pictures are photographs (the others are drawn).
WALLPAPERS = Path("/usr/share/wallpapers")  # plasma-workspace-wallpapers
WALLPAPER_PHOTOS = (
    *("BytheWater", "ColdRipple", "ColorfulCups", "EveningGlow", "FallenLeaf", "Grey", "Kite"),
    *("OneStandsOut", "Path", "summer_1am"),
)
BACKGROUNDS = Path("/usr/share/backgrounds")  # lomiri-wallpapers
PACKAGE_PHOTOS = (
    ("skimage", "data", ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    ("sklearn", "datasets/images", ("china.jpg", "flower.jpg")),
)
CURE = (
    "install some (Debian: apt install plasma-workspace-wallpapers), or give a folder of JPEGs with --images"
)


def pictures_below(folder: Path) -> list[Path]:
    """JPEGs and PNGs in a folder, in order."""
    suffixes = {".jpg", ".jpeg", ".png"}
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())


def find_photos() -> list[Path]:
    """Photographs of at least 400 x 400 pixels that this machine has, each in its largest form, in order.

    Raises:
        UserError: There are none.
    """
    found = pictures_below(BACKGROUNDS)
    for name in WALLPAPER_PHOTOS:
        forms = [p for p in pictures_below(WALLPAPERS / name) if p.stem != "screenshot"]
        found += [max(forms, key=lambda p: p.stat().st_size)] if forms else []
    for package, folder, names in PACKAGE_PHOTOS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [p for name in names if (p := Path(spec.origin).parent / folder / name).is_file()]
    photos = [p for p in found if min(_size(p)) >= MIN_SIDE]
    if not photos:
        raise UserError(f"no photographs were found on this machine to cut JPEGs from; {CURE}")
    return photos


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError:
        return 0, 0


def copy_images(folder: Path, out: Path, count: int) -> list[Path]:
    """Copy `count` JPEGs, drawn from all below a folder (the same each time) into the page cache.

    Raises:
        UserError: No such folder, or not `count` colour JPEGs in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a folder of JPEGs with --images")
    named = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    order = np.random.default_rng(0).permutation(len(named))
    taken = list(islice((named[i] for i in order if _is_colour_jpeg(named[i])), count))
    if len(taken) < count:
        raise UserError(f"{folder} has {len(taken)} colour JPEGs, fewer than --count {count}; lower --count")
    out.mkdir(parents=True)
    return [Path(shutil.copyfile(path, out / f"{i:06d}.jpg")) for i, path in enumerate(sorted(taken))]


def _is_colour_jpeg(path: Path) -> bool:
    """Whether every peer can decode the file: ImageNet holds a PNG named .JPEG, and CMYK."""
    try:
        with Image.open(path) as image:
            return image.format == "JPEG" and image.mode == "RGB"
    except OSError:
        return False


def computed_picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture whose spectrum falls with frequency as that of photographs does, for machines without any."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    shape = (3, *frequency.shape)
    waves = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency**FALL
    grey, *colour = np.fft.irfft2(waves, s=(height, width))
    channels = np.stack([grey, grey + 0.3 * colour[0], grey + 0.3 * colour[1]], axis=-1)
    scaled = 128 + 55 * (channels - channels.mean()) / channels.std()
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def large_jpegs(folder: Path, count: int) -> tuple[list[Path], str]:
    """Write `count` JPEGs of 1,600 x 1,200 pixels (quality 90, 4:2:0); the files, and what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed:04}.jpg" for seed in range(count)]
    for seed, path in enumerate(paths):
        computed_picture(*LARGE, seed).save(path, quality=90, subsampling="4:2:0")
    return paths, "computed pictures"
