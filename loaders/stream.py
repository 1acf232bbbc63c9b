"""Endless, stateless sequences of planned micro-batches: position in, plan out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.image_sizes import ImageSizes
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.plan.balance import BalancedOrder
from fastsemi.loaders.plan.draws import AugmentConfig, View, epoch_order, plan_mix, plan_view
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.plan.types import MixPlan, PlannedBatch, ViewPlan
from fastsemi.loaders.plan.windows import centre_crop, resized_centre


@dataclass(frozen=True)
class Stream:
    """The batches of one role (labelled, unlabelled, pretraining), one pass after another without end.

    Sample p of the stream is sample `order(p // n)[p % n]` of pass `p // n`, so every pass holds every sample
    once, whatever the batch size; where the last, smaller batch is dropped, a pass ends with the last whole
    one. Global batch `step` covers positions `step * batch` to `(step + 1) * batch` and consists of
    `micro_batches` micro-batches of equal size; mixing partners are drawn inside these.
    """

    index: Index
    """The images."""
    ids: NDArray[np.int64]
    """Which images of the index belong to the stream."""
    batch: int
    """Global batch, in images."""
    micro_batches: int
    """How many micro-batches a global batch consists of."""
    views: Mapping[View, AugmentConfig]
    """The views of an image, in the order in which engines return them."""
    mix: MixConfig | None
    """Mixing of the last view; None for none."""
    seed: int
    """The run's seed."""
    image_size: int
    """Side of a view in pixels."""
    name: str = "labelled"
    """What error messages call the stream."""
    balanced: bool = False
    """Whether each class comes up equally often (`BalancedOrder`), in place of each sample; it knows
    no passes that end, so that it excludes `drop_last`."""
    drop_last: bool = False
    """Whether a pass ends with its last whole batch, in place of batches that straddle passes."""
    restart: int = 0
    """With `drop_last`: after how many steps passes begin anew; 0 for never."""
    sizes: ImageSizes | None = None
    """Sides of the views by step, of which the last is `image_size`; None where all steps have that."""
    first_view_every: int = 1
    """The steps of every so many-th pass, the first one among them, have the first of the views; the others
    only those behind it. A step belongs to the pass that it begins in."""
    _order: list[View] = field(init=False, repr=False)
    _balance: BalancedOrder | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse batches that the data cannot fill or the micro-batches cannot share."""
        if self.batch > len(self.ids):
            raise UserError(
                f"the {self.name} batch of {self.batch} is larger than its data of {len(self.ids)} images; "
                f"set the batch to {len(self.ids)} or less, or add images"
            )
        if self.batch % self.micro_batches:
            raise UserError(
                f"the {self.name} batch of {self.batch} does not divide into {self.micro_batches} "
                "micro-batches; change micro_batches to a divisor"
            )
        object.__setattr__(self, "_order", list(self.views))
        balance = None
        if self.balanced:
            labels = np.asarray(self.index.labels[self.ids], dtype=np.int64)
            balance = BalancedOrder(self.seed, self._order[-1], self.ids, labels)
        object.__setattr__(self, "_balance", balance)

    def positions(self, step: int, micro: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and passes of micro-batch `micro` of global batch `step`, both [B]."""
        size = self.batch // self.micro_batches
        within = micro * size + np.arange(size)
        if self._balance:
            return self._balance.positions(step * self.batch + within)
        if self.drop_last:
            first, step = self._pass_of(step)
            epoch, place = np.full(size, first), step * self.batch + within
        else:
            epoch, place = np.divmod(step * self.batch + within, len(self.ids))
        ids = np.empty(size, dtype=np.int64)
        for e in np.unique(epoch):
            order = _cached_order(self.seed, self._order[-1], int(e), len(self.ids))
            ids[epoch == e] = self.ids[order[place[epoch == e]]]
        return ids, epoch

    @property
    def steps_per_pass(self) -> float:
        """Global batches in one pass over the samples; whole where the last, smaller one is dropped."""
        steps = len(self.ids) / self.batch
        return float(int(steps)) if self.drop_last else steps

    def _pass_of(self, step: int) -> tuple[int, int]:
        """Where the last batch is dropped: the pass of a global batch, and its number in it."""
        per_pass, before = len(self.ids) // self.batch, 0
        if self.restart:
            turn, step = divmod(step, self.restart)
            before = turn * -(-self.restart // per_pass)
        done, step = divmod(step, per_pass)
        return before + done, step

    def views_at(self, step: int) -> Mapping[View, AugmentConfig]:
        """The views of the images of global batch `step`."""
        done = self._pass_of(step)[0] if self.drop_last else step * self.batch // len(self.ids)
        if done % self.first_view_every == 0:
            return self.views
        return {view: self.views[view] for view in self._order[1:]}

    def image_size_at(self, step: int) -> int:
        """Side of the views of global batch `step`, in pixels."""
        return self.sizes.at(step) if self.sizes else self.image_size

    def spans(self, steps: range) -> Iterator[tuple[int, range]]:
        """Consecutive steps cut where the side of the views changes: each side with its steps."""
        if self.sizes:
            yield from self.sizes.spans(steps)
        elif steps:
            yield self.image_size, steps

    def plan(self, step: int, micro: int) -> PlannedBatch:
        """Plan micro-batch `micro` of global batch `step`."""
        ids, epoch = self.positions(step, micro)
        sizes = np.asarray(self.index.sizes[ids])
        views = tuple(
            plan_view(
                config,
                seed=self.seed,
                epoch=epoch,
                ids=ids,
                view=view,
                sizes=sizes,
                image_size=self.image_size_at(step),
            )
            for view, config in self.views_at(step).items()
        )
        labels = np.asarray(self.index.labels[ids], dtype=np.int64)
        return PlannedBatch(ids, labels, views, self._plan_mix(ids, epoch))

    def _plan_mix(self, ids: NDArray[np.int64], epoch: NDArray[np.int64]) -> MixPlan | None:
        if self.mix is None:
            return None
        return plan_mix(self.mix, seed=self.seed, epoch=epoch, ids=ids, view=self._order[-1])


# A pass over a million samples takes 10 MB and half a second to order; a micro-batch may straddle two passes.
@lru_cache(maxsize=8)
def _cached_order(seed: int, view: View, epoch: int, count: int) -> NDArray[np.int64]:
    return epoch_order(seed, view, epoch, count)


def evaluation_batches(
    index: Index, ids: NDArray[np.int64], batch: int, crop: float, resized_to: int | None = None
) -> Iterator[PlannedBatch]:
    """Every image once, in order, one centred view each; the last batch may be smaller.

    Args:
        index: The images.
        ids: [N] which of them.
        batch: Images per batch.
        crop: Side of the centred square as a fraction of the shorter side.
        resized_to: Side of the view in pixels, where the shorter side is resized before the square is cut.
    """
    for start in range(0, len(ids), batch):
        part = np.asarray(ids[start : start + batch], dtype=np.int64)
        sizes, resize = np.asarray(index.sizes[part]), None
        if resized_to is None:
            window = centre_crop(sizes, crop)
        else:
            resize, window = resized_centre(sizes, crop, resized_to)
        view = ViewPlan(window=window, flip=np.zeros(len(part), dtype=bool), resize=resize)
        yield PlannedBatch(part, np.asarray(index.labels[part], dtype=np.int64), (view,))


def random_batches(
    index: Index, ids: NDArray[np.int64], batch: int, augment: AugmentConfig, seed: int, turn: int, size: int
) -> Iterator[PlannedBatch]:
    """Every image once, in order, one random view each; the last batch may be smaller.

    Args:
        index: The images.
        ids: [N] which of them.
        batch: Images per batch.
        augment: How views are drawn.
        seed: The run's seed.
        turn: How many times the images have been looked at: each time has views of its own.
        size: Side of a view in pixels.
    """
    for start in range(0, len(ids), batch):
        part = np.asarray(ids[start : start + batch], dtype=np.int64)
        view = plan_view(
            augment,
            seed=seed,
            epoch=np.full(len(part), turn),
            ids=part,
            view=View.LABELLED,
            sizes=np.asarray(index.sizes[part]),
            image_size=size,
        )
        yield PlannedBatch(part, np.asarray(index.labels[part], dtype=np.int64), (view,))
