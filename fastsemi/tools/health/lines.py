"""What was found of the images, a line each, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fastsemi.common.listed import listed
from fastsemi.loaders.index.formats import say_skipped
from fastsemi.tools.health.counts import NARROW
from fastsemi.tools.health.doubles import MIRRORED, NEAR, SAME, Pair
from fastsemi.tools.health.health import Health

_SHOWN = 3  # examples of a kind
_UNEVEN = 3.0  # from where on the classes' sizes are a thing to act on


def lines(health: Health) -> Iterator[str]:
    """All that is to be told."""
    yield ", ".join(f"{count:,} {name}" for name, count in health.roles.items()) + " images"
    yield from _classes(health)
    yield from _sizes(health)
    yield from _kinds(health)
    yield from _broken(health)
    yield from _copies(health)
    yield from _leaks(health.doubles.leaks, health.roles)
    yield from _conflicts(health.doubles.conflicts)


def _classes(health: Health) -> Iterator[str]:
    if not health.classes:
        return
    least = min(health.classes, key=lambda count: count.trained_on)
    most = max(health.classes, key=lambda count: count.trained_on)
    spread = f"{least.trained_on:,} ({least.name}) to {most.trained_on:,} ({most.name}) training images"
    if least.trained_on == most.trained_on:
        spread = f"{least.trained_on:,} training images each"
    factor = f"the largest {health.unevenness:.1f} times the smallest"
    yield f"{len(health.classes):,} classes of {spread}, {factor}"
    if health.unevenness >= _UNEVEN:
        yield (
            "uneven classes: finetune.balanced and semi.balanced draw each equally often; judge by balanced "
            "accuracy"
        )
    for role, what in (("labelled", "labelled"), ("evaluation", "evaluation")):
        none = [count.name for count in health.classes if role in health.roles and not count.images[role]]
        if none:
            yield f"{len(none):,} classes have no {what} image: {listed(none)}"


def _sizes(health: Health) -> Iterator[str]:
    sizes = health.sizes
    yield (
        f"sides: the shortest has {sizes.least:,} pixels, the longest {sizes.most:,}; half of the images "
        f"have a shorter side of {sizes.median:,} or less"
    )
    if sizes.small:
        yield f"very small: {sizes.small:,} have a shorter side of less than {sizes.floor} pixels"
    if sizes.narrow:
        yield (
            f"very long: {sizes.narrow:,} have one side more than {NARROW:g} times the other; the evaluation "
            "crop shows less than a third of them"
        )


def _kinds(health: Health) -> Iterator[str]:
    if health.turned and health.exif == "apply":
        yield f"EXIF: {health.turned:,} are turned, as data.exif apply says"
    elif health.turned:
        cure = (
            "set data.exif to apply" if health.turnable else "a .beton cannot be turned; pack it anew, turned"
        )
        yield f"EXIF: {health.turned:,} lie on their side or mirrored, and are used so; {cure}"
    if health.deep:
        yield f"more than 8 bits a channel: {health.deep:,}, scaled to 8"
    if health.transparent:
        yield f"transparent: {health.transparent:,}, laid on the mean colour of ImageNet"
    if skipped := say_skipped(health.skipped):
        yield skipped


def _broken(health: Health) -> Iterator[str]:
    if not health.broken:
        return
    count = len(health.broken)
    cure = (
        f"data.max_bad {health.max_bad} skips them"
        if count <= health.max_bad
        else f"training stops at them; remove them, or set data.max_bad to {count}"
    )
    yield f"broken: {count:,}; {cure}"
    for name, reason in list(health.broken.items())[:_SHOWN]:
        yield f"  {name}: {reason}"


def _copies(health: Health) -> Iterator[str]:
    doubles = health.doubles
    for name in health.roles:
        counts = ((SAME, doubles.same), (NEAR, doubles.near), (MIRRORED, doubles.mirrored))
        found = [f"{kind[name]:,} {how}" for how, kind in counts if kind[name]]
        if found:
            yield f"{name} images that repeat an earlier one: {', '.join(found)}"
    if doubles.flat:
        yield f"of one colour: {doubles.flat:,}; they are compared by their files alone"
    if not doubles.complete:
        yield "so many images are alike that not all pairs were looked at: the counts are lower bounds"


def _leaks(pairs: Sequence[Pair], roles: Mapping[str, int]) -> Iterator[str]:
    for role, count in roles.items():
        mine = [pair for pair in pairs if pair.role == role]
        if not mine:
            continue
        kinds = ", ".join(
            f"{sum(pair.how == how for pair in mine):,} {how}"
            for how in (SAME, NEAR, MIRRORED)
            if any(pair.how == how for pair in mine)
        )
        yield (
            f"leak: {len(mine):,} of {count:,} {role} images are in the training set too ({kinds}), which "
            "flatters accuracies; look at them, and remove them from one side"
        )
        yield from _examples(mine)


def _conflicts(pairs: Sequence[Pair]) -> Iterator[str]:
    if pairs:
        yield f"likely wrong labels: {len(pairs):,}, each in another class than an image that is like it"
        yield from _examples(pairs)


def _examples(pairs: Sequence[Pair]) -> Iterator[str]:
    for pair in pairs[:_SHOWN]:
        yield f"  {pair.image} ({pair.how}: {pair.other})"
    if len(pairs) > _SHOWN:
        yield f"  and {len(pairs) - _SHOWN:,} more"
