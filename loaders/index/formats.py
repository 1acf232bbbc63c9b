"""The image formats that are read, and the names of files that are images.

Their readers are Pillow's own or well-kept libraries. Not among them is EPS, for which Pillow starts
Ghostscript on whatever a file holds, whatever its name. MPO files are opened as the JPEG they begin with.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

from PIL import features


def _has_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _has_avif() -> bool:
    with warnings.catch_warnings():  # of versions of Pillow that do not know the name
        warnings.simplefilter("ignore")
        return bool(features.check("avif"))  # type: ignore[no-untyped-call]


_AVIF, _HEIF = _has_avif(), _has_heif()

FORMATS = (
    *("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"),
    *(("AVIF",) if _AVIF else ()),
    *(("HEIF",) if _HEIF else ()),
)

# Compared in lower case. Those of torchvision.datasets.ImageFolder are among them.
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".jp2", ".ppm", ".pgm", ".pbm", ".pnm"),
    *((".avif",) if _AVIF else ()),
    *((".heic", ".heif") if _HEIF else ()),
)

# In counts of what was skipped, in place of an extension.
HIDDEN, OUTSIDE, FURTHER = "hidden", "images outside class folders", "further images of a sample"
_OTHERS = {
    OUTSIDE: ("image outside class folders", OUTSIDE),
    FURTHER: ("further image of a sample", FURTHER),
    HIDDEN: ("hidden file or folder", "hidden files or folders"),
}


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def is_jpeg_name(name: str) -> bool:
    """Whether a file of this name is a JPEG."""
    return name.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif"))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or a program: no data and no class."""
    return name.startswith(".") or name == "__MACOSX"


def extension(name: str) -> str:
    """What to call the kind of a file that is no image."""
    return os.path.splitext(name)[1].lower() or "without extension"


def say_skipped(skipped: Mapping[str, int]) -> str:
    """What was skipped, by extension, in words; nothing where nothing was."""
    kinds = sorted(
        ((n, kind) for kind, n in skipped.items() if kind not in _OTHERS), key=lambda k: (-k[0], k[1])
    )
    count = sum(n for n, _ in kinds)
    parts = []
    if count:
        named = ", ".join(f"{n:,} {kind}" for n, kind in kinds[:8])
        rest = f", {sum(n for n, _ in kinds[8:]):,} others" if len(kinds) > 8 else ""
        what = "files that are no images" if count > 1 else "file that is no image"
        parts.append(f"{count:,} {what}: {named}{rest}")
    for kind, (one, several) in _OTHERS.items():
        if n := skipped.get(kind, 0):
            parts.append(f"{n:,} {several if n > 1 else one}")
    return f"skipped {'; '.join(parts)}{_heif_cure(skipped)}" if parts else ""


def say_no_images(skipped: Mapping[str, int]) -> str:
    """What a folder without images lacks, and what it holds in their place, in words."""
    found = f"; {say_skipped(skipped)}" if skipped else ""
    return f"holds no images ({', '.join(IMAGE_EXTENSIONS)}){found}"


def _heif_cure(skipped: Mapping[str, int]) -> str:
    """How to read the photographs of telephones, where they were skipped for want of a package."""
    return "; pip install pillow-heif reads .heic and .heif" if {".heic", ".heif"} & skipped.keys() else ""
