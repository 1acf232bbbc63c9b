"""Images turned by their EXIF orientation, for every engine: windows are cut as stored, then turned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.base import Engine, Pending, Reading
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan
from fastsemi.loaders.sources.base import Source

# What each orientation does to a stored image, in this order: transpose it, mirror it left to right, mirror
# it top to bottom (EXIF 2.32, tag 274).
_STEPS = np.array(
    [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]], bool
)


def stored_windows(
    windows: NDArray[np.int32], sizes: NDArray[np.int32], turns: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """Where windows of turned images lie in the stored ones.

    Args:
        windows: [B, 4] left, top, width, height in turned images.
        sizes: [B, 2] width and height of the turned images.
        turns: [B] EXIF orientation.
    """
    transpose, across, down = _STEPS[turns].T
    left, top, width, height = windows.T
    left = np.where(across, sizes[:, 0] - left - width, left)
    top = np.where(down, sizes[:, 1] - top - height, top)
    plain = np.stack([left, top, width, height], 1)
    return np.where(transpose[:, None], plain[:, [1, 0, 3, 2]], plain).astype(np.int32)


def _stored(view: ViewPlan, sizes: NDArray[np.int32], turns: NDArray[np.uint8]) -> ViewPlan:
    """What a view of turned images is of the stored ones, without the flips of those that are turned."""
    within, resize = sizes, None
    if view.resize is not None:
        within = view.resize
        resize = np.where(_STEPS[turns][:, :1], within[:, ::-1], within)
    return ViewPlan(stored_windows(view.window, within, turns), view.flip & (turns <= 1), resize=resize)


def turn(image: torch.Tensor, turned: int) -> torch.Tensor:
    """An image [H, W, 3] turned by an EXIF orientation; a view of it."""
    transpose, across, down = _STEPS[turned].tolist()
    image = image.transpose(0, 1) if transpose else image
    dims = [axis for axis, mirrored in ((1, across), (0, down)) if mirrored]
    return image.flip(dims) if dims else image


class _Turning:
    """Views on their way, of which some are to be turned."""

    def __init__(self, pending: Pending, batch: PlannedBatch, slot: torch.Tensor, turns: NDArray[np.uint8]):
        self._pending, self._batch, self._slot, self._turns = pending, batch, slot, turns

    def result(self, timeout: float) -> list[BadImageError | None]:
        """As the engine's, with the views turned."""
        errors = self._pending.result(timeout)
        for b in np.flatnonzero(self._turns > 1).tolist():
            if errors[b] is None:
                for v, view in enumerate(self._batch.views):
                    pixels = turn(self._slot[v, b], int(self._turns[b]))
                    self._slot[v, b] = (pixels.flip(1) if view.flip[b] else pixels).clone()
        return errors


class TurningEngine(Engine):
    """An engine of the stored images whose views are turned afterwards, which costs no decoding.

    Args:
        inner: Reads the images as they are stored; closed with this engine.
        source: The images as they are turned.
    """

    def __init__(self, inner: Engine, source: Source):
        super().__init__(source, inner.image_size, inner.threads, inner.max_pixels)
        self.inner, self.name, self.device, self.resizes = inner, inner.name, inner.device, inner.resizes

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Start filling `slot`."""
        assert self.source.turns is not None
        turns = self.source.turns[batch.ids]
        if not (turns > 1).any():
            return self.inner.submit(batch, slot)
        sizes = self.source.sizes[batch.ids]
        views = tuple(_stored(view, sizes, turns) for view in batch.views)
        return _Turning(self.inner.submit(replace(batch, views=views), slot), batch, slot, turns)

    def reading(self, prefetch: int) -> Reading:
        """As the engine reads."""
        return self.inner.reading(prefetch)

    @property
    def readers(self) -> int:
        """As the engine has."""
        return self.inner.readers

    def require_memory(self, ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """As the engine does: a turned image has as many pixels."""
        self.inner.require_memory(ids, sizes)

    def stage_seconds(self) -> dict[str, float]:
        """As the engine says."""
        return self.inner.stage_seconds()

    def close(self) -> None:
        """Stop the engine."""
        self.inner.close()
