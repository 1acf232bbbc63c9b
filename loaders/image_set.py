"""Images of an index that serve one role."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.index.index import Index
from fastsemi.loaders.sources.base import Source


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of an index that serve one role, and the source of their bytes."""

    index: Index
    source: Source
    ids: NDArray[np.int64]
