"""The images of a run: how many of each class and use, how large, and what `fastsemi doctor --data` finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import digest
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.tools.health.counts import ClassCount, Sizes, count_classes, count_sizes
from fastsemi.tools.health.doubles import Pair
from fastsemi.tools.health.health import Health, examine, from_json
from fastsemi.tools.health.lines import lines
from fastsemi.tools.health.roles import Role, roles_of
from fastsemi.tools.report.pictures import Picture, load_pictures

MOST_IMAGES = 20_000  # that are looked at for a page
SHOWN_CLASSES = 40
SHOWN_PAIRS = 6


@dataclass(frozen=True)
class DataSection:
    """The images of a run."""

    roles: dict[str, int]
    """Images of each use."""
    classes: Sequence[ClassCount]
    """All, or of more than `SHOWN_CLASSES` those with the fewest training images, fewest first."""
    count: int
    """Of all classes."""
    largest: int
    """Training images of the largest class."""
    sizes: Sizes
    findings: list[str] | None
    """What looking at every image found; None where nobody has looked."""
    leaks: list[tuple[Picture, Picture]] = field(default_factory=list)
    conflicts: list[tuple[Picture, Picture]] = field(default_factory=list)


def describe_data(config: Config, *, look: bool) -> DataSection:
    """Count the images of a run, and look at all of them where they are few or have been looked at.

    Args:
        config: The run.
        look: Whether to look at up to `MOST_IMAGES` images now.

    Raises:
        UserError: Images that are not there.
    """
    with closing(Data(config.data, config.loader)) as data:
        roles = roles_of(data, config.stages)
        classes = count_classes(roles)
        health = _stored(config, roles)
        if health is None and look and sum(len(role.images.ids) for role in roles) <= MOST_IMAGES:
            health = examine(roles, config.data, config.loader, image_size=config.data.image_size)
        few = sorted(classes, key=lambda count: count.trained_on)[:SHOWN_CLASSES]
        return DataSection(
            roles={role.name: len(role.images.ids) for role in roles},
            classes=classes if len(classes) <= SHOWN_CLASSES else few,
            count=len(classes),
            largest=max((count.trained_on for count in classes), default=0),
            sizes=count_sizes(roles, config.data.image_size),
            findings=None if health is None else list(lines(health)),
            leaks=[] if health is None else _pictures(data, roles, health.doubles.leaks),
            conflicts=[] if health is None else _pictures(data, roles, health.doubles.conflicts),
        )


def _stored(config: Config, roles: Sequence[Role]) -> Health | None:
    """What `fastsemi doctor --data` has left in the run's folder; None where it is of other images."""
    path = RunFolder(config.output).health
    if not path.is_file():
        return None
    try:
        health = from_json(json.loads(path.read_text(encoding="utf-8", errors="surrogateescape")))
    except (ValueError, TypeError, KeyError):  # damaged, or of another version: as if nobody had looked
        return None
    return health if health.digest == digest([role.images for role in roles], labels=True) else None


def _pictures(data: Data, roles: Sequence[Role], pairs: Sequence[Pair]) -> list[tuple[Picture, Picture]]:
    """The first pairs as pictures; those whose file is gone since are left out."""
    sets = {role.name: role.images for role in roles}
    shown = []
    for pair in pairs[:SHOWN_PAIRS]:
        ends = (
            (pair.role, pair.id, pair.of, pair.how),
            (pair.other_role, pair.other_id, pair.other_of, pair.how),
        )
        found = [
            load_pictures(data, sets[role], [i], [(of or "no class", f"{role}, {how}")])
            for role, i, of, how in ends
        ]
        if all(found):
            shown.append((found[0][0], found[1][0]))
    return shown
