"""Which images are the same file, look alike, or are mirror images of one another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.image_set import ImageSet
from fastsemi.tools.health.hashes import flat, hashes
from fastsemi.tools.health.near import close_pairs
from fastsemi.tools.health.views import SIDE, SmallViews

ALIKE = 0.99  # correlation of two small grey views, from where on their pictures count as nearly the same
COLOURS = 10  # grey levels by which their colours may differ in the mean of a coarse view
MOST_LINKS = 2_000_000
_BLOCK = 16_384


@dataclass(frozen=True)
class Links:
    """Pairs of different groups, [L] each."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]


@dataclass(frozen=True)
class Likeness:
    """Groups of N images, and which groups are close to one another.

    Pictures of one colour are alike only where they are the same file. Broken files are alike to none.
    """

    file: NDArray[np.int64]  # [N] images with the same number are the same file, byte for byte
    look: NDArray[np.int64]  # [N] images with the same number have the same small view and size
    near: Links
    """Groups of `look` that are nearly the same."""
    mirrored: Links
    """Groups of `look` that are nearly the same when one is mirrored left to right."""
    flat: NDArray[np.bool_]  # [N] pictures of one colour
    complete: bool
    """Whether all links were found: no more than `MOST_LINKS` of a kind are looked for."""


def compare(sets: Sequence[ImageSet], views: SmallViews) -> Likeness:
    """Compare every image with all others.

    Files are read again only where their small views are the same.

    Args:
        sets: The images, in the order of `views`.
        views: Of N images.
    """
    blank = flat(views.grey)
    look = _same_views(sets, views)
    file = _same_files(sets, look, views.readable)
    look = np.where(blank, file + len(look), look)
    first, look = np.unique(look, return_index=True, return_inverse=True)[1:]
    told_apart = np.flatnonzero((views.readable & ~blank)[first])  # [G'] groups that are compared
    grey, colour = views.grey[first[told_apart]], views.colour[first[told_apart]]
    straight, turned = hashes(grey)
    near, all_near = _linked(grey, colour, straight, straight, mirror=False)
    mirrored, all_mirrored = _linked(grey, colour, straight, turned, mirror=True)
    near, mirrored = (Links(told_apart[links.left], told_apart[links.right]) for links in (near, mirrored))
    mirrored = _without(mirrored, near, len(first))
    return Likeness(file, look, near, mirrored, blank & views.readable, all_near and all_mirrored)


def _linked(
    grey: NDArray[np.uint8],
    colour: NDArray[np.uint8],
    straight: NDArray[np.uint64],
    others: NDArray[np.uint64],
    *,
    mirror: bool,
) -> tuple[Links, bool]:
    """Pictures that are alike, and whether these are all."""
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i, j in close_pairs(straight, others):
        alike = _alike(grey, colour, i, j, mirror)
        left.append(i[alike])
        right.append(j[alike])
        if sum(map(len, left)) > MOST_LINKS:
            return Links(np.concatenate(left), np.concatenate(right)), False
    return Links(np.concatenate(left), np.concatenate(right)), True


def _same_views(sets: Sequence[ImageSet], views: SmallViews) -> NDArray[np.int64]:
    """[N] equal numbers for equal small views of images of equal size; broken ones are alike to none."""
    sizes = np.concatenate([images.index.sizes[images.ids] for images in sets])
    keys = np.empty(len(sizes), np.int64)
    for n in range(len(sizes)):
        content = views.grey[n].tobytes() + views.colour[n].tobytes() + sizes[n].tobytes()
        if not views.readable[n]:
            content = n.to_bytes(8, "big")
        keys[n] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)
    return np.unique(keys, return_inverse=True)[1]


def _same_files(
    sets: Sequence[ImageSet], look: NDArray[np.int64], readable: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """[N] equal numbers for equal bytes, which are read of images that look alike."""
    several = (np.bincount(look)[look] > 1) & readable
    names: list[bytes] = [n.to_bytes(8, "big") for n in range(len(look))]
    start = 0
    for images in sets:
        for n in np.flatnonzero(several[start : start + len(images.ids)]).tolist():
            try:
                content = images.source.read_one(int(images.ids[n]))
            except BadImageError:  # it is gone since it was decoded
                continue
            names[start + n] = hashlib.blake2b(content, digest_size=16).digest()
        start += len(images.ids)
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1]


def _alike(
    grey: NDArray[np.uint8],
    colour: NDArray[np.uint8],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    mirror: bool,
) -> NDArray[np.bool_]:
    """[P] whether pictures i and j are nearly the same, j mirrored where `mirror`."""
    found = np.zeros(len(i), bool)
    for start in range(0, len(i), _BLOCK):
        rows = slice(start, start + _BLOCK)
        a, b = grey[i[rows]].astype(np.float32), grey[j[rows]].astype(np.float32)
        c, d = colour[i[rows]].astype(np.int16), colour[j[rows]].astype(np.int16)
        if mirror:
            b, d = b[:, :, ::-1], d[:, :, ::-1]
        a, b = (part.reshape(-1, SIDE * SIDE) - part.mean((1, 2))[:, None] for part in (a, b))
        product = np.einsum("ps,ps->p", a, b)
        norm = np.sqrt(np.einsum("ps,ps->p", a, a) * np.einsum("ps,ps->p", b, b))
        found[rows] = (product >= ALIKE * norm) & (np.abs(c - d).mean((1, 2, 3)) <= COLOURS)
    return found


def _without(links: Links, known: Links, groups: int) -> Links:
    """Links that are not among others: symmetrical pictures are their own mirror images."""
    new = ~np.isin(links.left * groups + links.right, known.left * groups + known.right)
    return Links(links.left[new], links.right[new])
