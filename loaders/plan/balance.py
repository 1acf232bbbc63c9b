"""The order of images of which each class comes up equally often, as a pure function of the seed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.plan.draws import Purpose, View, shuffled


class BalancedOrder:
    """An endless sequence in which every C positions in a row, from a multiple of C on, hold each class once.

    C counts the classes that have images. The r-th such round has the classes in an order of its own, and
    takes of a class with n images the image `order(r // n)[r % n]`: each image of a class comes up equally
    often too, those of a small class more often than those of a large one.

    Args:
        seed: The run's seed.
        view: Whose draws these are.
        ids: [N] images.
        labels: [N] their classes.
    """

    def __init__(self, seed: int, view: View, ids: NDArray[np.int64], labels: NDArray[np.int64]):
        self._seed, self._view = seed, view
        self._members = [ids[labels == label] for label in np.unique(labels)]
        self._order = lru_cache(maxsize=4096)(self._draw)  # of the passes at hand over each class

    def positions(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids at positions [B] of the sequence, and which pass over its class each is of; both [B]."""
        rounds, places = np.divmod(positions, len(self._members))
        found = [self._at(int(r), int(place)) for r, place in zip(rounds, places, strict=True)]
        ids, passes = zip(*found, strict=True)
        return np.array(ids, dtype=np.int64), np.array(passes, dtype=np.int64)

    def _at(self, turn: int, place: int) -> tuple[int, int]:
        label = int(self._order(None, turn)[place])
        members = self._members[label]
        epoch, within = divmod(turn, len(members))
        return int(members[self._order(label, epoch)[within]]), epoch

    def _draw(self, label: int | None, epoch: int) -> NDArray[np.int64]:
        """The order of a class's images in a pass over them; of None, of the classes in a round."""
        if label is None:
            numbers = np.arange(len(self._members))
            return shuffled(self._seed, self._view, epoch, numbers, Purpose.CLASSES)
        return shuffled(self._seed, self._view, epoch, self._members[label], Purpose.ORDER)
