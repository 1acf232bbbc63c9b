"""How many images a run has: counted where they are, else as told, else as known of the data set."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.run.config import Config

# Training images and classes by the last folder of data.root. ImageNet-1k; Food-101 and iNaturalist 2019 as
# published; Google Landmarks as the paper's table 11 has it, rounded there.
KNOWN = {
    "imagenet": (1_281_167, 1000),
    "food101": (75_750, 101),
    "inaturalist": (265_213, 1010),
    "google_landmark": (200_000, 256),
}
_SIZE = (500, 375)  # of an image that is not there: ImageNet's most frequent one; it changes no count


@dataclass(frozen=True)
class Sizes:
    """Numbers that replace the images."""

    train: int
    classes: int
    unlabelled: int | None
    """Images of `data.unlabeled`."""


def open_data(config: Config, options: argparse.Namespace) -> tuple[Data, str]:
    """The data of a run, or a stand-in with as many images.

    Args:
        config: The run.
        options: train_images, classes, unlabelled_images: what is known of data that is not here.

    Returns:
        The data, and where its sizes come from, in words.

    Raises:
        UserError: The data is not here and its sizes are not known.
    """
    told = {name: getattr(options, name) for name in ("train_images", "classes", "unlabelled_images")}
    for name, value in told.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    if not any(told.values()) and _is_here(config):
        return Data(config.data, config.loader), f"counted in {config.data.root}"
    known = KNOWN.get(config.data.root.name, (None, None))
    train, classes = told["train_images"] or known[0], told["classes"] or known[1]
    unlabelled = told["unlabelled_images"]
    if train is None or classes is None or (config.data.unlabeled is not None and unlabelled is None):
        missing = "--unlabelled_images" if train and classes else "--train_images and --classes"
        raise UserError(
            f"{config.data.root} is not here and its size is not known; give {missing}, or the data"
        )
    said = "as given" if any(told.values()) else f"as known of {config.data.root.name}, not counted"
    return AbsentData(config, Sizes(train, classes, unlabelled)), said


def _is_here(config: Config) -> bool:
    """Whether there is something to count; a pattern of shards counts as here where its folder is."""
    folder = config.data.root / config.data.train
    pattern = any(c in config.data.train for c in "*?[{")
    extra = all(place.exists() for place in config.data.unlabelled_places)
    return (config.data.root.is_dir() if pattern else folder.exists()) and extra


class AbsentData(Data):
    """Streams of images that are not there: their number is known, their classes are of equal size.

    Args:
        config: The run.
        sizes: How many.
    """

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config.data, config.loader)
        self._sizes = sizes

    @cached_property
    def train(self) -> ImageSet:
        """The training images, all with a class."""
        return _images(self.config.root, self._sizes.train, self._sizes.classes)

    @cached_property
    def all_labelled(self) -> ImageSet:
        """As many as `data.labels` asks for, of classes of equal size."""
        labels, classes = self.config.labels, self._sizes.classes
        if labels.file is not None:
            raise UserError(
                f"data.labels.file {labels.file} lists images of data that is not here; estimate with "
                "--data.labels.file null and --data.labels.fraction or --data.labels.per_class"
            )
        if (labels.fraction is None) == (labels.per_class is None):
            raise UserError(
                "the labelled images must be chosen in exactly one way; give one of data.labels.fraction, "
                "data.labels.per_class, data.labels.file"
            )
        count = labels.per_class or max(1, round((labels.fraction or 0) * self._sizes.train / classes))
        return ImageSet(self.train.index, self.train.source, self.train.ids[: count * classes])

    def open_unlabelled(self, *places: str | Path) -> ImageSet:
        """As many images as `data.unlabeled` is told to hold."""
        return _images(Path(places[0]), self._sizes.unlabelled or 0, 0)


def _images(root: Path, count: int, classes: int) -> ImageSet:
    labels = np.arange(count, dtype=np.int32) % classes if classes else np.full(count, -1, dtype=np.int32)
    index = Index(
        root=root,
        classes=tuple(str(i) for i in range(classes)),
        path_blob=np.zeros(0, dtype=np.uint8),
        path_offsets=np.zeros(count + 1, dtype=np.int64),
        labels=labels,
        sizes=np.broadcast_to(np.array(_SIZE, dtype=np.int32), (count, 2)),
        broken=np.zeros(0, dtype=np.int64),
    )
    return ImageSet(index, FolderSource(index), np.arange(count))
