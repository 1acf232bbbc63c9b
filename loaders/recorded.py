"""A stream whose plans were written down, in place of drawn ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.plan.arrays import from_arrays
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.stream import Stream


@dataclass(frozen=True)
class RecordedStream(Stream):
    """The first steps of a stream, as arrays [steps, micro-batches, ...] of `plan.arrays.to_arrays` say."""

    arrays: Mapping[str, NDArray] = field(default_factory=dict, repr=False)
    """By name."""

    def positions(self, step: int, micro: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The recorded ids, and no passes: zeros."""
        ids = self.arrays["ids"][step, micro]
        return ids, np.zeros_like(ids)

    def plan(self, step: int, micro: int) -> PlannedBatch:
        """The recorded plan."""
        return from_arrays({name: array[step, micro] for name, array in self.arrays.items()})
