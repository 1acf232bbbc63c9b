"""Real pictures that work offline: Debian's cut-outs as folders of eight classes.

    apt-get install tuxpaint-stamps-default
    python scripts/stamps.py data/stamps

The classes are the eight folders with most pictures, 713 in all. Names of one object differ by a number, a
pose or a mirror image. What becomes of the pictures is said in `scripts/cutouts.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cutouts import write

SOURCE = Path("/usr/share/tuxpaint/stamps")
CLASSES = ("animals", "food", "household", "plants", "seasonal", "symbols", "town", "vehicles")

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


def main() -> int:
    """Write the folders; returns the exit code."""
    files = {name: sorted((SOURCE / name).rglob("*.png")) for name in CLASSES}
    return write(files, SOURCE, "tuxpaint-stamps-default", object_name)


if __name__ == "__main__":
    sys.exit(main())
