"""What all loaders of `benchmarks.loading.loaders` are asked for, and how.

Each one gives two random views (area 0.08 to 1, ratio 3/4 to 4/3, flip) of every image in random order,
uint8, in batches on the host. `augment` adds the paper's weak colour jitter and strong RandAugment; erasing,
normalisation and mixing are left to the device everywhere. Peers are set up as their own documentation
advises.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
JITTER = 0.4
RANDAUGMENT = "rand-m9-mstd0.5-inc1"
FILL = (124, 116, 104)  # the mean colour of ImageNet in bytes


class AbsentError(Exception):
    """A loader that cannot run here; the message says why and how it could."""


@dataclass(frozen=True)
class Setup:
    """What all loaders of a comparison are given."""

    files: tuple[str, ...]
    """JPEGs; as many as fill whole batches."""
    sizes: NDArray[np.int32]
    """[N, 2] their widths and heights."""
    work: Path
    """Folder for files that a loader must write first."""
    threads: int
    """Decoding threads or worker processes."""
    augment: bool = False
    """Whether views are augmented, or only cut."""
    batch: int = 64
    """Images of a batch."""
    image_size: int = 224
    """Side of a view in pixels."""


class MeasuredLoader(Protocol):
    """An open loader; its workers persist between passes."""

    def run_pass(self, times: int = 1) -> int:
        """Load every image so many times, without a pause where the loader can, and let go of all batches.

        Returns:
            Number of images delivered, each with two views.
        """
        ...

    def close(self) -> None:
        """End all workers."""
        ...
