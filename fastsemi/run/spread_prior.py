"""Spreads labels over the teacher's features now and then, for the semi stage's pseudo labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastsemi.models.projected import classifier_of
from fastsemi.parallel import processes
from fastsemi.probing.classifiers import evenly
from fastsemi.probing.probe import MOST_UNLABELLED, Prober
from fastsemi.probing.spreading import Graph
from fastsemi.run.context import RunContext
from fastsemi.run.order import earlier
from fastsemi.stages.label_prior import LabelPrior
from fastsemi.stages.semi import Semi

Ids = NDArray[np.int64]
Shares = NDArray[np.float32]


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
    total, classes = stage.schedule.total_steps, len(run.data.classes)
    untrained = not earlier(run.config, "semi") and not run.config.model.has_weights

    def before_step(step: int) -> None:
        if step % prior.every or (step == 0 and untrained):
            return
        steps = range(step, min(step + prior.every, total))
        found = _spread(run.prober, stage, classes, steps) if processes.is_main() else None
        found = processes.from_main(found)
        assert found is not None
        prior.spread(*found)

    return before_step


def _spread(prober: Prober, stage: Semi, classes: int, steps: range) -> tuple[Ids, Shares]:
    """Ids [N] of the images of some steps and their shares [N, C] of the classes."""
    stream = stage.roles["unlabelled"].stream
    parts = [stream.positions(step, micro)[0] for step in steps for micro in range(stream.micro_batches)]
    ids = np.unique(np.concatenate(parts))
    ids = ids[evenly(len(ids), MOST_UNLABELLED)]  # the others keep the teacher's label alone
    network = classifier_of(stage.teacher.model)
    features = prober.features("teacher", network, unlabelled=ids, evaluated=False)
    spread = Graph.of(features.scaled, trained=True).spread(features.labelled.y)
    shares = np.zeros((len(features.unlabelled.ids), classes), np.float32)
    shares[:, spread.classes] = spread.shares[len(features.labelled.y) :]
    return features.unlabelled.ids, shares
