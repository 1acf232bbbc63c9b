"""Everything that is to be known of the images of a run before it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.loaders.image_set import digest
from fastsemi.loaders.settings import DataConfig, LoaderConfig
from fastsemi.tools.health.counts import (
    ClassCount,
    Sizes,
    count_classes,
    count_sizes,
    count_skipped,
    count_turned,
    unevenness,
)
from fastsemi.tools.health.doubles import Doubles, Pair, find_doubles
from fastsemi.tools.health.kinds import count_kinds
from fastsemi.tools.health.likeness import compare
from fastsemi.tools.health.roles import Role
from fastsemi.tools.health.views import small_views


@dataclass(frozen=True)
class Health:
    """What was found of the images of a run."""

    digest: str
    """Of which images: a fingerprint of their names and classes."""
    roles: dict[str, int]
    """Images of each use."""
    classes: list[ClassCount]
    """Empty where no image has a class."""
    unevenness: float
    """Images of the largest class by those of the smallest."""
    sizes: Sizes
    turned: int
    """Images that EXIF would turn or mirror."""
    exif: str
    """`data.exif`."""
    turnable: bool
    """Whether `data.exif apply` can turn them."""
    deep: int
    """Images with more than 8 bits a channel."""
    transparent: int
    skipped: dict[str, int]
    """Files that are no images, by extension."""
    broken: dict[str, str]
    """Why files cannot be decoded."""
    max_bad: int
    """How many of them training skips."""
    doubles: Doubles

    @property
    def works(self) -> bool:
        """Whether training would run, and no file is both trained and evaluated on or in two classes."""
        same = any(leak.how == "same file" for leak in (*self.doubles.leaks, *self.doubles.conflicts))
        return len(self.broken) <= self.max_bad and not same


def examine(
    roles: Sequence[Role],
    data: DataConfig,
    loader: LoaderConfig,
    *,
    image_size: int | None = None,
    turnable: bool = True,
    progress: Callable[[int], None] = lambda count: None,
) -> Health:
    """Look at every image once.

    Args:
        roles: The images by use.
        data: Limits of the images.
        loader: How they are read.
        image_size: Side of the network's input, None where it is not known.
        turnable: Whether `data.exif` can turn them.
        progress: Called with the number of images that have just been looked at.

    Raises:
        UserError: There are no images.
    """
    sets = [role.images for role in roles]
    if not sum(len(images.ids) for images in sets):
        raise UserError(f"{data.root} holds no images; add some, or correct data.root")
    classes = count_classes(roles)
    views = small_views(sets, data, loader, progress)
    kinds = [count_kinds(images) for images in sets]
    return Health(
        digest=digest(sets, labels=True),
        roles={role.name: len(role.images.ids) for role in roles},
        classes=classes,
        unevenness=unevenness(classes),
        sizes=count_sizes(roles, image_size),
        turned=count_turned(roles),
        exif=data.exif,
        turnable=turnable,
        deep=sum(deep for deep, _ in kinds),
        transparent=sum(transparent for _, transparent in kinds),
        skipped=count_skipped(roles),
        broken=views.broken,
        max_bad=data.max_bad,
        doubles=find_doubles(roles, compare(sets, views)),
    )


def to_json(health: Health) -> dict[str, Any]:
    """All that was found, as JSON takes it."""
    return dataclasses.asdict(health)


def from_json(tree: dict[str, Any]) -> Health:
    """What `to_json` made, back again.

    Raises:
        KeyError, TypeError: It is of another version.
    """
    doubles = tree["doubles"]
    pairs = {name: [Pair(**pair) for pair in doubles[name]] for name in ("leaks", "conflicts")}
    classes = [ClassCount(**count) for count in tree["classes"]]
    parts = {"classes": classes, "sizes": Sizes(**tree["sizes"]), "doubles": Doubles(**{**doubles, **pairs})}
    return Health(**{**tree, **parts})
