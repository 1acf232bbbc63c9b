"""What the trained network makes of the images of its run: classes, confidence, and the images to look at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.probing.classifiers import evenly
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.trained import Trained, temperature, trained_run
from fastsemi.tools.report.classes import Classes, describe
from fastsemi.tools.report.confusion import draw_confusions
from fastsemi.tools.report.pictures import Picture, load_pictures
from fastsemi.tools.report.reliability import Reliability, draw_reliability
from fastsemi.training.evaluate import class_logits
from fastsemi.training.outcomes import Outcomes, outcomes

LEAST = 2_000  # images that are looked at of a use; of more no more than there are evaluation images
SHOWN = 8


@dataclass(frozen=True)
class Answers:
    """What a network answers."""

    classes: Classes
    matrix: bytes | None
    """A plot of the confusions, None for many classes."""
    reliability: Reliability
    mistakes: list[Picture]
    """Evaluation images that it is wrong about, the most confident first."""
    doubtful: list[Picture]
    """Labelled images that it takes for another class, the most confident first."""
    disagreements: int
    """How many labelled images it takes for another class."""
    labelled: int
    """Labelled images that were looked at."""
    unsure: list[Picture]
    """Unlabelled images with the lowest confidence."""
    unlike: list[Picture]
    """Unlabelled images with the highest energy: like none of the classes."""
    unlabelled: int
    """Unlabelled images that were looked at."""


def answers(config: Config) -> Answers | None:
    """Run a finished run's network over its images; None where it has none yet.

    Raises:
        UserError: As `trained_run`.
    """
    if not RunFolder(config.output).has_model:
        return None
    with trained_run(config) as run:
        data = run.data
        evaluated = _outcomes(run, data.val, config)
        most = max(LEAST, len(data.val.ids))
        # Held-out images that are evaluated on have shown above where the network is wrong.
        trusted = data.labelled if config.data.val is None else data.all_labelled
        labelled = _outcomes(run, _some(trusted, most), config)
        rest = _some(_unlabelled(data, config), most)
        found = _outcomes(run, rest, config)
        wrong = _order(~evaluated.right, -evaluated.confidence)
        doubted = _order(~labelled.right, -labelled.confidence)
        classes = describe(evaluated.confusion(len(data.classes)), data.classes)
        return Answers(
            classes=classes,
            matrix=draw_confusions(classes),
            reliability=draw_reliability(evaluated),
            mistakes=_pictures(data, data.val, evaluated, wrong),
            doubtful=_pictures(data, trusted, labelled, doubted),
            disagreements=len(doubted),
            labelled=len(labelled.ids),
            unsure=_pictures(data, rest, found, np.argsort(found.confidence, kind="stable")),
            unlike=_pictures(data, rest, found, np.argsort(-found.energy, kind="stable")),
            unlabelled=len(found.ids),
        )


def _outcomes(run: Trained, images: ImageSet, config: Config) -> Outcomes:
    batch = config.eval_batch
    said = class_logits(run.model, run.data, run.views, run.precision, batch=batch, images=images)
    assert said is not None  # in the one process that there is
    return outcomes(said, temperature(run.model))


def _some(images: ImageSet, most: int) -> ImageSet:
    return replace(images, ids=images.ids[evenly(len(images.ids), most)])


def _unlabelled(data: Data, config: Config) -> ImageSet:
    """The images that the semi stage labels; none where there is no such stage."""
    images = data.unlabelled_or_none if "semi" in config.stages else None
    if images is None:
        return replace(data.labelled, ids=data.labelled.ids[:0])
    return images


def _order(chosen: NDArray[np.bool_], by: NDArray[np.float32]) -> NDArray[np.int64]:
    """Those that are chosen, by ascending value."""
    places = np.flatnonzero(chosen)
    return places[np.argsort(by[places], kind="stable")]


def _pictures(data: Data, images: ImageSet, found: Outcomes, places: NDArray[np.int64]) -> list[Picture]:
    """The first `SHOWN` images of some places, with what the network says and what is known."""
    shown = places[:SHOWN]
    captions = []
    for n in shown.tolist():
        answer = f"{data.classes[found.predicted[n]]}, {found.confidence[n]:.2f}"
        label = int(found.labels[n])
        captions.append((answer, f"in {data.classes[label]}" if label >= 0 else ""))
    return load_pictures(data, images, found.ids[shown], captions)
