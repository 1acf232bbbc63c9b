"""The settings `data` and `loader`: which images, which labels, and how they are read."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fastsemi.common.errors import UserError
from fastsemi.common.urls import place
from fastsemi.loaders.engines.settings import DaliOptions, EngineName
from fastsemi.loaders.index.cache import default_cache_dir
from fastsemi.loaders.index.settings import Exif
from fastsemi.loaders.sources.remote import Remote

MOST_SIDE = 16_384  # pixels of a view: a batch of larger ones has no room in memory
MOST_THREADS = 1024  # which a process may start
_SOME = f"lie in [1, {MOST_THREADS}]"


@dataclass(frozen=True)
class LabelsConfig:
    """Which training images are labelled: give one of fraction, per_class and file."""

    fraction: float | None = None
    """Fraction of each class, in (0, 1]; at least one image of each class."""
    per_class: int | None = None
    """Images of each class."""
    file: Path | None = None
    """A table of paths and labels of images in the folder data.train, of which the others then have none; or
    a list of those that count as labelled: the authors' CSV (column Index) or a text list of file names."""
    seed: int = 0
    """Seed of the choice; apart from the run's seed, so that runs can share their labels."""
    validation: float = 0.0
    """Fraction of the labelled images of each class, in [0, 1), whose labels train nothing: train.select best
    goes by them. They stay among the unlabelled images, unless data.unlabeled names others. Without
    evaluation images (data.val null) they are evaluated on too, and train nothing at all. A class keeps at
    least one image to train on."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        ways = [name for name in ("fraction", "per_class", "file") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise UserError(f"data.labels gives {' and '.join(ways)}; give one, and null for the others")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UserError(f"data.labels.fraction is {self.fraction}; it must lie in (0, 1]")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"data.labels.per_class is {self.per_class}; it must be at least 1")
        if not 0 <= self.validation < 1:
            raise UserError(f"data.labels.validation is {self.validation}; it must lie in [0, 1)")


@dataclass(frozen=True)
class DataConfig:
    """Images and labels."""

    root: Path = Path("data")
    """Folder that holds the sets; it, and each set, may be a URL: s3://, gs://, az://, https://."""
    train: str = "train"
    """Training images below root: a folder with one folder a class; a table of paths and labels (CSV, TSV,
    JSON lines, Parquet); or files that hold images: a .beton, tar shards or Parquet files, by name, as a
    folder of them or as a pattern (train-{000..099}.tar)."""
    val: str | None = "val"
    """Evaluation images below root, in any of these forms: of the same classes, or some of them; null for
    none, then data.labels.validation of the labelled images are evaluated on; where that is 0 too all labels
    train and nothing is evaluated."""
    unlabeled: Path | tuple[Path, ...] | None = None
    """Further images without classes, in any of these forms, relative to the working directory; or a list of
    places that share no image. By default training images without a label."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """Which training images are labelled."""
    unlabelled_includes_labelled: bool = False
    """Whether labelled images are in the unlabelled set too."""
    image_size: int = 224
    """Side of the network's input in pixels."""
    eval_crop: float = 0.875
    """Side of the centred evaluation square as a fraction of the shorter side."""
    eval_resize: Literal["square", "shorter_side"] = "square"
    """What is resized for evaluation: the centred square alone, in whole pixels, by the loader's engine; or
    the whole image, its shorter side to image_size / eval_crop, of which the centre is then cut, by the
    engine thread_pool (reference where that is the loader's)."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means for normalisation, of pixel values in [0, 1]; also the fill colour of warps."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations."""
    exif: Exif = "ignore"
    """Whether images are turned as their EXIF orientation says, as viewers show them, or used as they are
    stored, as torchvision does."""
    max_bad: int = 0
    """How many broken image files to skip before giving up; 0 stops at the first."""
    max_pixels: int = 178_956_970
    """Images with more pixels are refused."""
    reindex: bool = False
    """Read the sizes of all images again, for files that were changed in place."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        # the parser's paths have lost what makes them URLs
        object.__setattr__(self, "root", place(self.root))
        if self.unlabeled is not None:
            given = self.unlabeled
            places = tuple(map(place, given)) if isinstance(given, tuple) else place(given)
            object.__setattr__(self, "unlabeled", places)
        for what in (self.train, self.val or ""):
            place(what)
        if not 1 <= self.image_size <= MOST_SIDE:
            raise UserError(f"data.image_size is {self.image_size}; it must lie in [1, {MOST_SIDE}]")
        if self.max_pixels < 1:
            raise UserError(f"data.max_pixels is {self.max_pixels}; it must be at least 1")
        if self.max_bad < 0:
            raise UserError(f"data.max_bad is {self.max_bad}; it must be 0 or more")
        if not all(0 <= m <= 1 for m in self.mean) or not all(0 < s < math.inf for s in self.std):
            raise UserError(
                f"data.mean {self.mean} must lie in [0, 1] and data.std {self.std} be positive, as for "
                "pixels between 0 and 1"
            )
        if self.unlabeled == ():
            raise UserError("data.unlabeled is an empty list; name places of images, or null for none")
        if not 0 < self.eval_crop <= 1:
            raise UserError(f"data.eval_crop is {self.eval_crop}; it must lie in (0, 1]")

    @property
    def unlabelled_places(self) -> tuple[Path, ...]:
        """What `unlabeled` names; nothing for null."""
        if self.unlabeled is None:
            return ()
        return self.unlabeled if isinstance(self.unlabeled, tuple) else (self.unlabeled,)

    @property
    def evaluates(self) -> bool:
        """Whether there are images to evaluate on, of a place of their own or held-out labelled ones."""
        return self.val is not None or self.labels.validation > 0

    @property
    def resized_to(self) -> int | None:
        """As `evaluation_batches` takes it."""
        return self.image_size if self.eval_resize == "shorter_side" else None

    @property
    def fill(self) -> tuple[int, int, int]:
        """The mean colour in bytes."""
        r, g, b = (min(255, round(255 * m)) for m in self.mean)
        return r, g, b


@dataclass(frozen=True)
class PlanConfig:
    """What is drawn about data, in a file."""

    record: Path | None = None
    """Write what the first steps of each stage draw to this .safetensors file."""
    steps: int = 100
    """How many steps of a stage are recorded."""
    replay: Path | None = None
    """Train on the draws in this file, in place of the seed's; it must hold all steps of all stages."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.steps < 1:
            raise UserError(f"plan.steps is {self.steps}; it must be at least 1")
        if self.record and self.replay:
            raise UserError(
                "plan.record and plan.replay are both set; a replayed plan is in its file already"
            )


@dataclass(frozen=True)
class LoaderConfig:
    """How images are read and decoded. Nothing here changes which ones are read or how they are cut."""

    engine: EngineName = "auto"
    """Engine that decodes and crops. `auto` is native, or dali where a trial beside a GPU finds that faster;
    a run that is resumed keeps the one that it was begun with."""
    threads: int = 0
    """Decoding threads; 0 for one per core."""
    prefetch: int = 4
    """Batches under way ahead of the training step."""
    dali: DaliOptions = field(default_factory=DaliOptions)
    """Options of the dali engine."""
    max_memory: float = 0.0
    """GiB that an engine may need to decode images, as their sizes tell; those too large for a thread's share
    wait for one another, and one that alone needs more than half of it is refused before training. 0: half
    of the memory that is available at the start, shared among the processes of the machine."""
    jpeg_index_gb: float = 1.0
    """GiB of memory, in each process and for each source of images, in which the native engine keeps where
    parts of the JPEGs begin, so that from the second epoch on it decodes little more of them than the views
    show. It takes a byte for every 128 pixels of an image, 1.5 KiB for 500 x 375. Where that is more than
    this, or than a share of a sixteenth of the memory that is available at the start, the parts are larger.
    0 for none."""
    timeout_s: float = 120.0
    """Seconds that a batch may take before the run stops."""
    cache_dir: Path | None = None
    """Folder on the local disk in which what is read from URLs is kept; all processes of a machine share it.
    By default objects in $FASTSEMI_CACHE."""
    cache_gb: float = 10.0
    """GiB of disk that it may take; 0 for none. What a run has read stays there until the run ends."""
    remote_threads: int = 64
    """Requests of a process to a store under way at the same time, for images at URLs."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        for name, value, holds, rule in (
            ("threads", self.threads, self.threads >= 0, "be 0 (one per core) or more"),
            ("threads", self.threads, self.threads <= MOST_THREADS, f"be at most {MOST_THREADS}"),
            ("prefetch", self.prefetch, self.prefetch >= 1, "be at least 1"),
            ("max_memory", self.max_memory, 0 <= self.max_memory < math.inf, "be 0 (automatic) or more"),
            ("jpeg_index_gb", self.jpeg_index_gb, 0 <= self.jpeg_index_gb < math.inf, "be 0 (none) or more"),
            ("cache_gb", self.cache_gb, 0 <= self.cache_gb < math.inf, "be 0 (no cache) or more"),
            ("remote_threads", self.remote_threads, 1 <= self.remote_threads <= MOST_THREADS, _SOME),
            ("timeout_s", self.timeout_s, 0 < self.timeout_s < math.inf, "be positive and finite"),
        ):
            if not holds:
                raise UserError(f"loader.{name} is {value}; it must {rule}")

    @property
    def remote(self) -> Remote:
        """How objects of a store are read."""
        kept = self.cache_dir or default_cache_dir().with_name("objects")
        return Remote(kept if self.cache_gb else None, int(self.cache_gb * 2**30), self.remote_threads)

    @property
    def thread_count(self) -> int:
        """Threads, resolved."""
        return self.threads or len(os.sched_getaffinity(0))
