"""Which launches a planned batch needs: operations in a row become passes over the pixels.

A pass reads an image once and writes it once. It begins with at most one operation that reads neighbours (a
warp or sharpness), goes on with any number of operations on single pixels, and looks at most once at a
statistic of the whole image; none where it reads neighbours, so that collecting a statistic never warps.
All passes that are the first of their image run in one launch, then all second ones. Everything here is done
for the whole batch at once on the host, from the plan alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastsemi.loaders.plan.packing import upload
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS

WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TABLES = ("autocontrast", "equalize")  # become a table of 256 values a channel
STATISTICS = (*TABLES, "contrast")

# Columns of `Schedule.passes`
COLUMNS = ("source", "target", "final", "first", "last", "neighbours", "look", "extra")
NONE, SHARPNESS, WARP = range(3)  # values of the column "neighbours"


def _is(names: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([name in names for name in RANDAUGMENT_OPS])


_IS_TABLE, _IS_STATISTIC, _IS_WARP = _is(TABLES), _is(STATISTICS), _is(WARPS)
_NEIGHBOURS = np.where(_IS_WARP, WARP, np.where(_is(("sharpness",)), SHARPNESS, NONE)).astype(np.int32)


@dataclass(frozen=True)
class Schedule:
    """Passes over a batch of B images. Pass p makes operations `first[p]` to `last[p] - 1` of `op`.

    Columns of `passes`: `source`, the image to read: a sample in the first round, else a slot of the scratch
    images; `target`, where to write: a sample of the result where `final`, else a slot; `first` and `last`;
    `neighbours`: whether operation `first` reads neighbours, and how; `look`: the operation that needs a
    statistic, `last` for none; `extra`: where partial statistics of the pass begin, or its row of `affine`.
    """

    passes: NDArray[np.int32]  # [N, 8], those that need a table first in their round, then contrast
    op: NDArray[np.int32]  # [M] index into RANDAUGMENT_OPS
    arg: NDArray[np.float32]  # [M]
    affine: NDArray[np.float64]  # [W, 6] where output pixels come from, see `affine_matrices`
    rounds: tuple[tuple[int, int, int], ...]  # passes, those with a statistic, those with a table
    slots: int  # images with more than one pass

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`passes`, `op`, `arg` and `affine` on a device, in one copy that the host does not wait for."""
        names = "passes", "op", "arg", "affine"
        tensors = upload({name: getattr(self, name) for name in names}, device)
        passes, op, arg, affine = (tensors[name] for name in names)
        return passes, op, arg, affine


def schedule(
    op: NDArray[np.int64], arg: NDArray[np.float32], height: int, width: int, tiles: int
) -> Schedule:
    """Deal the operations of every image to passes.

    Args:
        op: [L, B] index into RANDAUGMENT_OPS, -1 for none; layer 0 is applied first.
        arg: [L, B] arguments.
        height: Of the images.
        width: Of the images.
        tiles: Parts of an image whose statistics are collected apart.
    """
    segment = _segments(op)
    count = segment[-1] + 1 if len(op) else np.ones(op.shape[1], np.int64)
    start = np.cumsum(count) - count  # pass of sample b in round r: start[b] + r
    sample = np.repeat(np.arange(len(count)), count)
    turn = np.arange(len(sample)) - start[sample]

    planned = op.T >= 0  # [B, L]: the operations that are there, image by image
    code, value = op.T[planned].astype(np.int32), arg.T[planned].astype(np.float32)
    owner = (start[:, None] + segment.T)[planned]  # the pass of each; never decreasing
    first = np.searchsorted(owner, np.arange(len(sample)))
    last = np.append(first[1:], len(code))
    look = last.copy()
    looking = np.flatnonzero(_IS_STATISTIC[code])
    look[owner[looking]] = looking
    table = np.zeros(len(sample), bool)
    table[owner[looking]] = _IS_TABLE[code[looking]]
    contrast = (look < last) & ~table
    neighbours = np.zeros(len(sample), np.int32)
    begins = np.flatnonzero(_NEIGHBOURS[code])  # such an operation is the first of its pass
    neighbours[owner[begins]] = _NEIGHBOURS[code[begins]]

    order = np.lexsort((neighbours == NONE, ~contrast, ~table, turn))
    several = count > 1
    slot = np.cumsum(several) - several
    final = turn == count[sample] - 1
    warped = np.flatnonzero(_IS_WARP[code])
    extra = np.zeros(len(sample), np.int64)
    extra[owner[warped]] = np.arange(len(warped))
    rounds = []
    for r in range(int(count.max(initial=1))):
        mine = order[turn[order] == r]
        tables, looks = int(table[mine].sum()), int((look < last)[mine].sum())
        sizes = np.where(np.arange(looks) < tables, 768 * tiles, tiles)
        extra[mine[:looks]] = np.cumsum(sizes) - sizes
        rounds.append((len(mine), looks, tables))
    source, target = np.where(turn == 0, sample, slot[sample]), np.where(final, sample, slot[sample])
    columns = source, target, final, first, last, neighbours, look, extra
    passes = np.stack([c[order] for c in columns], axis=1).astype(np.int32)
    affine = affine_matrices(code[warped], value[warped], height, width)
    return Schedule(passes, code, value, affine, tuple(rounds), int(several.sum()))


def _segments(op: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pass, counted from 0, in which each operation [L, B] runs."""
    now = np.zeros(op.shape[1], np.int64)
    used, special = np.zeros((2, op.shape[1]), bool)  # special: has a statistic, or reads neighbours
    segment = np.zeros(op.shape, np.int64)
    for layer, code in enumerate(op):
        there = code >= 0
        neighbours, statistic = there & (_NEIGHBOURS[code] != NONE), there & _IS_STATISTIC[code]
        new = (neighbours & used) | (statistic & special)
        now = now + new
        used = (used & ~new) | there
        special = (special & ~new) | neighbours | statistic
        segment[layer] = now
    return segment


def affine_matrices(
    code: NDArray[np.int32], arg: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float64]:
    """The matrices [W, 6] of warps: pixel (x, y) comes from (m0 x' + m1 y' + m2, m3 x' + m4 y' + m5).

    Here x' = x + 1/2 and y' = y + 1/2; the matrices are those of `kernels.reference.warp` and Pillow.
    """
    value = arg.astype(np.float64)
    matrix = np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (len(code), 1))
    for name, place, factor in (
        ("shear_x", 1, 1),
        ("shear_y", 3, 1),
        ("translate_x", 2, width),
        ("translate_y", 5, height),
    ):
        mine = code == RANDAUGMENT_OPS.index(name)
        matrix[mine, place] = value[mine] * factor
    mine = code == RANDAUGMENT_OPS.index("rotate")
    angle = np.remainder(value[mine], 360.0) * (-math.pi / 180)
    cos, sin = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    x, y = width / 2, height / 2
    rotation = (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)
    matrix[mine] = np.stack(rotation, axis=1)
    return matrix
