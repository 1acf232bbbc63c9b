"""Several indexes of files as one, for images that lie in several places."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import Index, pack_paths


def merge_indexes(parts: Sequence[Index]) -> Index:
    """The images of all parts, one part after the other, without classes; in memory.

    Raises:
        UserError: An image that is in two parts.
    """
    roots = [os.path.realpath(part.root) for part in parts]
    root = os.path.commonpath(roots)
    part_of: dict[bytes, int] = {}
    for number, (part, own) in enumerate(zip(parts, roots, strict=True)):
        inside, top = os.fsencode(own), os.fsencode(os.path.join(root, ""))
        for path in part.iter_relative():  # a table names some by absolute paths
            name = os.path.join(inside, path).removeprefix(top)
            if (first := part_of.setdefault(name, number)) != number:
                raise UserError(
                    f"image {os.path.join(root, os.fsdecode(name))} is in {parts[first].root} and in "
                    f"{part.root}; name places that share no image"
                )
    sizes = np.concatenate([part.sizes for part in parts])
    path_blob, path_offsets = pack_paths(list(part_of))
    return Index(
        root=Path(root),
        classes=(),
        path_blob=path_blob,
        path_offsets=path_offsets,
        labels=np.full(len(sizes), -1, np.int32),
        sizes=sizes,
        broken=np.flatnonzero(sizes[:, 0] == 0),
        orientation=np.concatenate([_orientation(part) for part in parts]),
        skipped=dict(sum((Counter(part.skipped) for part in parts), Counter())),
    )


def _orientation(index: Index) -> np.ndarray:
    return np.ones(len(index), np.uint8) if index.orientation is None else np.asarray(index.orientation)
