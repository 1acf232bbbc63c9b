"""Clip art that works offline: Debian's drawings as folders of ten classes.

    apt-get install openclipart-png
    python scripts/clipart.py data/clipart

Links to pictures of other folders are left out, and drawings of over 4,096 pixels, which take minutes. Names
of one object begin with one word. What becomes of the pictures is said in `scripts/cutouts.py`.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

from cutouts import write
from PIL import Image

SOURCE = Path("/usr/share/openclipart/png")
LARGEST = 4096
CLASSES = {
    name.rpartition("/")[2]: name
    for name in (
        "animals",
        "buildings",
        "food",
        "office",
        "people",
        "plants",
        "recreation/music",
        "signs_and_symbols/flags",
        "tools",
        "transportation",
    )
}


def object_name(path: Path) -> str:
    """The first word of a name; a folder's numbered pictures are one object."""
    word = re.match("[a-z]*", path.name.lower())
    return f"{path.parent}/" if word is None or not word[0] else word[0]


def _taken(file: Path) -> bool:
    if file.is_symlink():
        return False
    try:
        with warnings.catch_warnings(action="error"), Image.open(file) as image:
            return max(image.size) <= LARGEST
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return False


def main() -> int:
    """Write the folders; returns the exit code."""
    files = {
        name: sorted(file for file in (SOURCE / place).rglob("*.png") if _taken(file))
        for name, place in CLASSES.items()
    }
    return write(files, SOURCE, "openclipart-png", object_name)


if __name__ == "__main__":
    sys.exit(main())
