"""What a folder of images holds: classes, labels, sizes. Reads the index alone, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import MAX_PIXELS, Index
from fastsemi.loaders.index.labels import select_labelled
from fastsemi.loaders.index.same_classes import with_classes_of
from fastsemi.loaders.index.same_files import ids_also_in
from fastsemi.loaders.index.table import Part
from fastsemi.loaders.settings import LabelsConfig
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.loaders.sources.open import IndexedSource, open_source
from fastsemi.tools.init.layout import Layout

UNEVEN = (
    1.5  # images of the largest class by those of the smallest, from where on classes are of different size
)


@dataclass(frozen=True)
class Survey:
    """Counts of a folder of images."""

    layout: Layout
    classes: tuple[str, ...]
    images: NDArray[np.int64]  # [C] training images of each class, as far as it is known
    labelled: NDArray[np.int64]  # [C] those of them that have a label
    further: int
    """Images without classes in a folder of their own."""
    evaluated: int
    sides: NDArray[np.int32]  # [N] longer side of each readable image to train on, in pixels
    broken: tuple[str, ...]
    """Paths of images that cannot be read."""
    skipped: tuple[tuple[Path, Mapping[str, int]], ...]
    """Files that are no images, by extension, of each folder."""
    lying: int
    """Images that their EXIF orientation would turn or mirror, those to evaluate on included."""
    turnable: bool
    """Whether `data.exif` can turn them."""
    unnamed: int = 0
    """Training images that a table gives no label."""

    @property
    def without_label(self) -> int:
        """Training images that do not count as labelled."""
        return int((self.images - self.labelled).sum()) + self.unnamed

    @property
    def side(self) -> int:
        """Half of the images have no longer side than this, in pixels."""
        return int(np.median(self.sides))

    @property
    def unevenness(self) -> float:
        """Images of the largest class by those of the smallest that has any."""
        return float(self.images.max() / self.images[self.images > 0].min())

    @property
    def uneven(self) -> bool:
        """Whether classes are of different size."""
        return self.unevenness > UNEVEN


def look(layout: Layout, labels: LabelsConfig) -> Survey:
    """Index the images of a folder and count them.

    Args:
        layout: Where they are.
        labels: Which training images are labelled.

    Raises:
        UserError: No images, a single class, other classes to evaluate on, labels that are not there, no
            readable image.
    """
    train = _open(layout.root / layout.train, "train", layout.table)
    index = train.index
    if len(index.classes) < 2:
        raise UserError(
            f"{layout.table or index.root} holds the one class {index.classes[0]}; a classifier needs two or "
            "more, each in a folder of its own or with a label of its own in a table"
        )
    ids = select_labelled(
        index,
        fraction=labels.fraction,
        per_class=labels.per_class,
        index_file=labels.file,
        seed=labels.seed,
    )
    sources = [train]
    if layout.unlabelled is not None:
        sources.append(_open(layout.unlabelled, "unlabeled"))
    opened, evaluated = [*sources], np.zeros(0, np.int64)
    if layout.val is not None:
        opened.append(_open(layout.root / layout.val, "val"))
        with_classes_of(index, opened[-1].index)
        evaluated = ids_also_in(index, opened[-1].index)
    sides = np.concatenate([np.asarray(source.index.sizes).max(axis=1) for source in sources])
    if not sides.any():
        raise UserError(f"none of the {len(sides)} images of {index.root} can be read; check the files")
    return Survey(
        layout,
        index.classes,
        _by_class(index, np.arange(len(index))),
        _by_class(index, ids),
        len(sources[1]) if len(sources) > 1 else 0,
        len(opened[-1]) if layout.val is not None else 0,
        sides[sides > 0],
        tuple(source.name(int(i)) for source in sources for i in source.index.broken),
        tuple((source.index.root, source.index.skipped) for source in opened if source.index.skipped),
        sum(source.index.lying for source in opened),
        not any(isinstance(source, BetonSource) for source in opened),
        int(np.count_nonzero(np.delete(index.labels, evaluated) < 0)),
    )


def _open(path: Path, part: Part, labels: Path | None = None) -> IndexedSource:
    return open_source(
        Path(), path, has_classes=part != "unlabeled", max_pixels=MAX_PIXELS, part=part, labels=labels
    )


def _by_class(index: Index, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of some images each class has, [C]; those without a class do not count."""
    labels = index.labels[ids]
    return np.bincount(labels[labels >= 0], minlength=len(index.classes))
