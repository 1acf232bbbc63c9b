"""What images that are alike mean: copies, evaluation images that are trained on, doubtful labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.tools.health.likeness import Likeness, Links
from fastsemi.tools.health.roles import Role

SAME, NEAR, MIRRORED = "same file", "nearly the same", "mirror image"
_NONE = Links(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Pair:
    """Two images that are alike."""

    how: str
    """"same file", "nearly the same" or "mirror image"."""
    image: str
    role: str
    of: str | None
    """Its class, None where it has none."""
    id: int
    """Its position in the index of its role."""
    other: str
    other_role: str
    other_of: str | None
    other_id: int


@dataclass(frozen=True)
class Doubles:
    """Images that are there more than once."""

    same: dict[str, int]
    """How many images of each role are the same file as another of that role, beyond the first."""
    near: dict[str, int]
    """How many are nearly the same as an earlier one of that role, copies left out."""
    mirrored: dict[str, int]
    """How many are the mirror image of an earlier one of that role."""
    leaks: list[Pair]
    """Images to evaluate or to choose on that are trained on too: each once, with one that it is like."""
    conflicts: list[Pair]
    """Images that are the same or nearly, in different classes: each once. Mirror images are not among
    them: b and d are."""
    flat: int
    """Pictures of one colour; they count only where they are the same file."""
    complete: bool
    """False where so many images are alike that not all pairs were looked at."""


class _Images:
    """All images of all roles, one after the other."""

    def __init__(self, roles: Sequence[Role]):
        self.roles = roles
        counts = [len(role.images.ids) for role in roles]
        self.role = np.repeat(np.arange(len(roles)), counts)  # [N]
        self.start = np.cumsum([0, *counts])
        self.label = np.concatenate([_labels(role) for role in roles])  # [N] -1 for none
        self.names = next((r.images.index.classes for r in roles if r.images.index.classes), ())

    def pair(self, how: str, a: int, b: int) -> Pair:
        return Pair(how, *self._told(a), *self._told(b))

    def _told(self, n: int) -> tuple[str, str, str | None, int]:
        role = self.roles[self.role[n]]
        i = int(role.images.ids[n - self.start[self.role[n]]])
        of = self.names[self.label[n]] if self.label[n] >= 0 else None
        return role.images.source.name(i), role.name, of, i

    def among(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """[N] whether an image has one of some roles."""
        return np.isin(self.role, [r for r, role in enumerate(self.roles) if role.name in names])


def _labels(role: Role) -> NDArray[np.int64]:
    ids = role.images.ids
    if not role.images.index.classes:
        return np.full(len(ids), -1, np.int64)
    return np.asarray(role.images.index.labels[ids], np.int64)


def find_doubles(roles: Sequence[Role], found: Likeness) -> Doubles:
    """Judge what images that are alike mean for a run.

    Args:
        roles: The images by use, N together.
        found: Which of the N are alike.
    """
    images = _Images(roles)
    kinds = (
        (SAME, found.file, _NONE),
        (NEAR, found.look, found.near),
        (MIRRORED, found.look, found.mirrored),
    )
    within: dict[str, dict[str, int]] = {how: {} for how, _, _ in kinds}
    for r, role in enumerate(roles):
        mine = images.role == r
        counted = np.zeros(len(mine), bool)
        for how, group, links in kinds:
            again = _repeats(group, links, mine, copies=how != MIRRORED) & ~counted
            counted |= again
            within[how][role.name] = int(again.sum())
    return Doubles(
        same=within[SAME],
        near=within[NEAR],
        mirrored=within[MIRRORED],
        leaks=_leaks(images, kinds),
        conflicts=_conflicts(images, kinds[:2]),
        flat=int(found.flat.sum()),
        complete=found.complete,
    )


def _repeats(
    group: NDArray[np.int64], links: Links, mine: NDArray[np.bool_], *, copies: bool
) -> NDArray[np.bool_]:
    """[N] images of a role that come after another one of it, in their group or in a linked one."""
    first = _first(group, mine)  # [G]
    left, right = first[links.left], first[links.right]
    there = (left < len(mine)) & (right < len(mine))
    later = np.zeros(len(first), bool)
    later[np.where(left < right, links.right, links.left)[there]] = True
    n = np.arange(len(mine))
    again = later[group] & (n == first[group])
    if copies:
        again |= n != first[group]
    return again & mine


def _first(group: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[G] the first image of each group among those of `where`, N for none."""
    first = np.full(int(group.max()) + 1, len(group), np.int64)
    n = np.flatnonzero(where)
    np.minimum.at(first, group[n], n)
    return first


_Kinds = Sequence[tuple[str, NDArray[np.int64], Links]]


def _leaks(images: _Images, kinds: _Kinds) -> list[Pair]:
    pairs = []
    for r, role in enumerate(images.roles):
        if not role.must_not_meet:
            continue
        left = images.role == r
        trained = images.among(role.must_not_meet)
        for how, group, links in kinds:
            like = _first(group, trained)[group]  # [N]
            linked = _linked(_first(group, trained), links)[group]
            like = np.minimum(like, linked)
            met = left & (like < len(left))
            pairs += [images.pair(how, n, int(like[n])) for n in np.flatnonzero(met).tolist()]
            left &= ~met
    return pairs


def _linked(first: NDArray[np.int64], links: Links) -> NDArray[np.int64]:
    """[G] the first image in the groups that a group is linked with."""
    reached = np.full_like(first, np.iinfo(np.int64).max)
    np.minimum.at(reached, links.left, first[links.right])
    np.minimum.at(reached, links.right, first[links.left])
    return reached


def _conflicts(images: _Images, kinds: _Kinds) -> list[Pair]:
    """Each image that is like an earlier one of another class, once."""
    left = images.label >= 0
    pairs = []
    for how, group, links in kinds:
        first = _first(group, images.label >= 0)
        none = len(images.label)
        known = first < none
        n = np.flatnonzero(left)
        n = n[images.label[n] != images.label[first[group[n]]]]
        met = list(zip(n.tolist(), first[group[n]].tolist(), strict=True))
        both = known[links.left] & known[links.right]
        for a, b in zip(first[links.left[both]].tolist(), first[links.right[both]].tolist(), strict=True):
            if images.label[a] != images.label[b]:
                met.append((max(a, b), min(a, b)))
        for a, b in sorted(met):
            if left[a]:
                pairs.append(images.pair(how, a, b))
                left[a] = False
    return pairs
