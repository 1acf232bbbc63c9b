"""Spreads labels over the teacher's features now and then, for the semi stage's pseudo labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastsemi.models.projected import classifier_of
from fastsemi.parallel import processes
from fastsemi.probe.classifiers import evenly
from fastsemi.probe.probe import MOST_UNLABELLED, Features
from fastsemi.probe.spreading import Graph
from fastsemi.run.context import RunContext
from fastsemi.run.order import earlier
from fastsemi.stages.label_prior import LabelPrior
from fastsemi.stages.semi import Semi

Ids = NDArray[np.int64]
Shares = NDArray[np.float32]

MOST_TO_CHOOSE = 10_000  # unlabelled images by which the space of the pixels is chosen


def spread_before_step(run: RunContext, stage: Semi) -> Callable[[int], None] | None:
    """What to call before each step with its number; None where labels are not spread.

    Labels are spread among the images of the steps until the next time, no others: each is looked at once
    more than training does. One process spreads, all take the same shares. A network of random weights has
    nothing to say, so that a stage that starts from one spreads labels for the first time after
    `semi.spread_every`.
    """
    prior = stage.prior
    if not isinstance(prior, LabelPrior):
        return None
    spreader = _Spreader(run, stage)
    total = stage.schedule.total_steps
    untrained = not earlier(run.config, "semi") and not run.config.model.has_weights

    def before_step(step: int) -> None:
        if step % prior.every or (step == 0 and untrained):
            return
        steps = range(step, min(step + prior.every, total))
        found = spreader.spread(steps) if processes.is_main() else None
        found = processes.from_main(found)
        assert found is not None
        prior.spread(*found)

    return before_step


class _Spreader:
    """Spreads labels along neighbours by the teacher's features and, without weights given, the pixels.

    Pictures for which there are weights are such that pixels say little.
    """

    def __init__(self, run: RunContext, stage: Semi):
        self._prober = run.prober
        self._stage, self._classes = stage, len(run.data.classes)
        self._with_pixels = not run.config.model.has_weights

    def spread(self, steps: range) -> tuple[Ids, Shares]:
        """Ids [N] of the images of some steps and their shares [N, C] of the classes."""
        stream = self._stage.roles["unlabelled"].stream
        parts = [stream.positions(step, micro)[0] for step in steps for micro in range(stream.micro_batches)]
        ids = np.unique(np.concatenate(parts))
        ids = ids[evenly(len(ids), MOST_UNLABELLED)]  # the others keep the teacher's label alone
        network = classifier_of(self._stage.teacher.model)
        features = self._prober.features("teacher", network, unlabelled=ids, evaluated=False)
        pixels = self._pixels(ids).scaled if self._with_pixels else None
        cosine = self._cosine if self._with_pixels else True
        graph = Graph.of_trained(features.scaled, pixels, cosine=cosine)
        spread = graph.spread(features.labelled.y)
        shares = np.zeros((len(features.unlabelled.ids), self._classes), np.float32)
        shares[:, spread.classes] = spread.shares[spread.labelled :]
        return features.unlabelled.ids, shares

    @cached_property
    def _cosine(self) -> bool:
        """The space of the pixels, which the labels choose: always the same, so that a run can go on."""
        some = self._stage.roles["unlabelled"].stream.ids
        pixels = self._pixels(np.sort(some)[evenly(len(some), MOST_TO_CHOOSE)])
        return Graph.of(pixels.scaled).spread(pixels.labelled.y).space.cosine

    def _pixels(self, ids: Ids) -> Features:
        return self._prober.features("pixels", None, unlabelled=ids, evaluated=False)
