"""The image formats that are read, and the names of files that are images.

Their readers are Pillow's own or well-kept libraries. Not among them is EPS, for which Pillow starts
Ghostscript on whatever a file holds, whatever its name. MPO files are opened as the JPEG they begin with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from PIL import features


def _has_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


_AVIF, _HEIF = bool(features.check("avif")), _has_heif()  # type: ignore[no-untyped-call]

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

HIDDEN = "hidden"  # in counts of what was skipped, in place of an extension


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
    kinds = sorted(((n, kind) for kind, n in skipped.items() if kind != HIDDEN), key=lambda k: (-k[0], k[1]))
    hidden, count = skipped.get(HIDDEN, 0), sum(n for n, _ in kinds)
    parts = []
    if count:
        named = ", ".join(f"{n:,} {kind}" for n, kind in kinds[:8])
        rest = f", {sum(n for n, _ in kinds[8:]):,} others" if len(kinds) > 8 else ""
        noun = "files that are no images" if count > 1 else "file that is no image"
        parts.append(f"skipped {count:,} {noun}: {named}{rest}")
    if hidden:
        noun = "files or folders" if hidden > 1 else "file or folder"
        parts.append(f"{'' if parts else 'skipped '}{hidden:,} hidden {noun}")
    return "; ".join(parts) + _heif_cure(skipped)


def say_no_images(skipped: Mapping[str, int]) -> str:
    """What a folder without images lacks, and what it holds in their place, in words."""
    found = f"; {say_skipped(skipped)}" if skipped else ""
    return f"holds no images ({', '.join(IMAGE_EXTENSIONS)}){found}"


def _heif_cure(skipped: Mapping[str, int]) -> str:
    """How to read the photographs of telephones, where they were skipped for want of a package."""
    return "; pip install pillow-heif reads .heic and .heif" if {".heic", ".heif"} & skipped.keys() else ""
