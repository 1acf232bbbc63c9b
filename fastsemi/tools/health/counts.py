"""What the index alone tells of images: classes, sizes, what is turned, what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.tools.health.roles import Role

NARROW = 3.0  # longer by shorter side, from where on a centred square shows less than a third of a picture


@dataclass(frozen=True)
class ClassCount:
    """Images of a class by role."""

    name: str
    images: dict[str, int]

    @property
    def trained_on(self) -> int:
        """Images in its folder that are not there to evaluate on."""
        return sum(count for role, count in self.images.items() if role != "evaluation")


@dataclass(frozen=True)
class Sizes:
    """Sides of readable images, in pixels."""

    least: int
    """Shortest side of all."""
    median: int
    """Half of the images have no longer shorter side."""
    most: int
    """Longest side of all."""
    floor: int
    """Half of the network's input, or 16 where that is not known."""
    small: int
    """Images whose shorter side is less than that."""
    narrow: int
    """Images with one side more than `NARROW` times the other."""


def count_classes(roles: Sequence[Role]) -> list[ClassCount]:
    """Images of each class, by the roles that know classes, in the order of the classes."""
    names = next((role.images.index.classes for role in roles if role.images.index.classes), ())
    tables = {}
    for role in roles:
        labels = role.images.index.labels[role.images.ids]
        labels = labels[labels >= 0]  # a table may say of some images which class they are
        if role.images.index.classes and len(labels):
            tables[role.name] = np.bincount(labels, minlength=len(names)).tolist()
    return [ClassCount(name, {role: t[c] for role, t in tables.items()}) for c, name in enumerate(names)]


def unevenness(classes: Sequence[ClassCount]) -> float:
    """Images of the largest class by those of the smallest that has any."""
    counts = [count.trained_on for count in classes if count.trained_on]
    return max(counts) / min(counts) if counts else 1.0


def count_sizes(roles: Sequence[Role], image_size: int | None) -> Sizes:
    """Sides of the images of all roles.

    Args:
        roles: The images.
        image_size: Side of the network's input, None where it is not known.
    """
    sizes = np.concatenate([np.asarray(role.images.index.sizes[role.images.ids]) for role in roles])
    sizes = sizes[(sizes > 0).all(1)]
    floor = 16 if image_size is None else -(-image_size // 2)
    if not len(sizes):
        return Sizes(0, 0, 0, floor, 0, 0)
    shorter, longer = sizes.min(1), sizes.max(1)
    return Sizes(
        int(shorter.min()),
        int(np.median(shorter)),
        int(longer.max()),
        floor,
        int((shorter < floor).sum()),
        int((longer > NARROW * shorter).sum()),
    )


def count_turned(roles: Sequence[Role]) -> int:
    """Images that their EXIF orientation would turn or mirror."""
    return sum(int((_orientation(role) > 1).sum()) for role in roles)


def _orientation(role: Role) -> NDArray[np.uint8]:
    orientation = role.images.index.orientation
    return np.ones(0, np.uint8) if orientation is None else np.asarray(orientation[role.images.ids])


def count_skipped(roles: Sequence[Role]) -> dict[str, int]:
    """Files that are no images, by extension, of all folders; each folder counts once."""
    folders = {str(role.images.index.root): role.images.index.skipped for role in roles}
    return dict(sum((Counter(dict(skipped)) for skipped in folders.values()), Counter()))
