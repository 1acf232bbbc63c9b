"""The accuracy of simple classifiers on a run's own labels and evaluation images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.plan.draws import AugmentConfig
from fastsemi.loaders.stream import random_batches
from fastsemi.probing.classifiers import (
    MOST_SELF_TAUGHT,
    LinearHead,
    Scale,
    evenly,
    linear_head,
    predictions,
    self_training,
)
from fastsemi.probing.features import FeatureSet, frozen_features
from fastsemi.probing.spread_labels import SpreadFeatures
from fastsemi.probing.spreading import Graph
from fastsemi.stages.inputs import Views

# Images that label spreading uses. With a third of them fine-tuning on Fashion-MNIST lost 6 points (seed 10).
MOST_UNLABELLED = 60_000
# Beyond these, fitting and choosing settings takes longer than a user waits.
MOST_LABELLED = 5_000
MOST_CLASSES = 200
# Images times views times classes that the classifier of a network is fitted to; beyond it views are fewer.
MOST_FITTED = 1_000_000
# Views of the frozen network's classifier, chosen on seeds 10 to 19 of real pictures (docs/results.md).
VIEW = AugmentConfig(area=(0.5, 1.0), randaugment="", erase=0.0)


@dataclass(frozen=True)
class Baseline:
    """A simple classifier on one kind of features."""

    features: str
    """pixels, or what the frozen network has learnt from."""
    classifier: str
    top1: float
    """In percent of the evaluation images."""
    balanced: float
    """Mean over the classes of their accuracy, in percent."""
    seconds: float
    """To fit and to classify, without the features."""


@dataclass(frozen=True)
class Features:
    """The features of a run's images."""

    name: str
    labelled: FeatureSet
    unlabelled: FeatureSet
    evaluated: FeatureSet

    @property
    def scale(self) -> Scale:
        """Of all training images."""
        return Scale.of(np.concatenate([self.labelled.x, self.unlabelled.x]))

    @property
    def scaled(self) -> NDArray[np.float32]:
        """[L + U, D] of all training images, the labelled ones first."""
        return self.scale(np.concatenate([self.labelled.x, self.unlabelled.x]))


class Prober:
    """Probes the data of a run.

    Args:
        data: The run's data.
        views: Normalises.
        precision: Number format of networks.
        batch: Images per batch.
    """

    def __init__(self, data: Data, views: Views, precision: Precision, *, batch: int):
        self._data, self._views, self._precision, self._batch = data, views, precision, batch
        self._spread: dict[str, SpreadFeatures] = {}

    def features(
        self,
        name: str,
        network: nn.Module | None,
        *,
        unlabelled: NDArray[np.int64] | None = None,
        evaluated: bool = True,
    ) -> Features:
        """Look at the images once.

        Args:
            name: What tables call these features.
            network: On the device; None for pixels.
            unlabelled: Ids of the unlabelled images to look at; by default some that are spread out evenly.
            evaluated: Whether evaluation images are looked at too.
        """
        data, images = self._data, self._unlabelled()
        some = _spread_out(images.ids, MOST_UNLABELLED) if unlabelled is None else unlabelled
        looked = data.val.ids if evaluated else data.val.ids[:0]
        parts = [
            frozen_features(network, which, ids, data, self._views, self._precision, batch=self._batch)
            for which, ids in ((data.labelled, data.labelled.ids), (images, some), (data.val, looked))
        ]
        if not len(parts[1].ids):  # as wide as the others, whatever the features
            parts[1] = replace(parts[1], x=parts[0].x[:0])
        return Features(name, *parts)

    def head(
        self, network: nn.Module | None, *, views: int = 0, flip: float = 0.5, seed: int = 0
    ) -> tuple[LinearHead, int]:
        """The classifier of a network: self-training on its frozen features, also of random views.

        Args:
            network: On the device; None for pixels.
            views: Random views of each image besides that of evaluation: crops of at least half of its area.
            flip: Probability of a view's horizontal flip.
            seed: The run's seed, of which the views depend.

        Returns:
            The classifier, and how many random views it has learnt from: fewer where there are many images.

        Raises:
            UserError: The labels are of one class.
        """
        rest = self._unlabelled()
        some = _spread_out(rest.ids, MOST_SELF_TAUGHT)
        first = self.features("frozen", network, unlabelled=some, evaluated=False)
        _require_classes(first)
        once = (len(first.labelled.x) + len(first.unlabelled.x)) * len(self._data.classes)
        count = min(views, MOST_FITTED // once - 1)
        augment = replace(VIEW, flip=flip)
        drawn = [
            [
                self._view(network, images, known, augment, seed, turn)
                for images, known in ((self._data.labelled, first.labelled), (rest, first.unlabelled))
            ]
            for turn in range(count)
        ]
        model = self_training(
            first.labelled, first.unlabelled.x, first.scale, views=[(each[0], each[1]) for each in drawn]
        )
        return linear_head(model, first.scale, len(self._data.classes)), len(drawn)

    def _unlabelled(self) -> ImageSet:
        data = self._data
        rest = data.unlabelled_or_none
        return replace(data.labelled, ids=data.labelled.ids[:0]) if rest is None else rest

    def _view(
        self,
        network: nn.Module | None,
        images: ImageSet,
        known: FeatureSet,
        augment: AugmentConfig,
        seed: int,
        turn: int,
    ) -> NDArray[np.float32]:
        """Features [N, D] of a random view of images that have been looked at before."""
        data, ids = self._data, known.ids
        if not len(ids):
            return known.x
        size = data.config.image_size
        plans = random_batches(images.index, ids, self._batch, augment, seed, turn, size)
        found = frozen_features(
            network, images, ids, data, self._views, self._precision, batch=self._batch, plans=plans
        )
        if not np.array_equal(found.ids, ids):
            gone = images.index.path(int(np.setdiff1d(ids, found.ids)[0]))
            raise UserError(
                f"{gone} could be read before and no longer can; look at the disk, then start again"
            )
        return found.x

    def spread(self, name: str, network: nn.Module | None) -> SpreadFeatures:
        """Spread the labels among features, among those of one name once: many images take minutes.

        Args:
            name: What these features are called; "pixels" and "frozen features" are those of `baselines`.
            network: As in `features`.
        """
        if name not in self._spread:
            return self._spread_among(self.features(name, network, evaluated=False))
        return self._spread[name]

    def _spread_among(self, features: Features) -> SpreadFeatures:
        if features.name not in self._spread:
            spread = Graph.of(features.scaled).spread(features.labelled.y)
            self._spread[features.name] = SpreadFeatures(features.name, features.unlabelled.ids, spread)
        return self._spread[features.name]

    def baselines(self, features: Features, say: Callable[[str], None] = lambda text: None) -> list[Baseline]:
        """Fit and judge all classifiers on the features.

        Raises:
            UserError: The labels are of one class.
        """
        _require_classes(features)
        found = []
        truth = features.evaluated.y
        spread = lambda: self._spread_among(features).spread  # noqa: E731
        fits = predictions(features.labelled, features.unlabelled.x, features.evaluated.x, spread)
        for name, fit in fits.items():
            say(f"{features.name}: {name}")
            begun = time.perf_counter()
            predicted = fit()
            seconds = time.perf_counter() - begun
            top1, balanced = _accuracy(predicted, truth)
            found.append(Baseline(features.name, name, top1, balanced, seconds))
        return found


def best(baselines: list[Baseline]) -> Baseline:
    """The one with the highest top-1."""
    return max(baselines, key=lambda baseline: baseline.top1)


def to_json(baselines: list[Baseline]) -> list[dict[str, Any]]:
    """As `summary.json` keeps them."""
    return [asdict(baseline) for baseline in baselines]


def _require_classes(features: Features) -> None:
    if len(np.unique(features.labelled.y)) < 2:
        raise UserError("the labels are all of one class; label images of at least two classes")


def _spread_out(ids: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the ids, evenly from all of them."""
    return ids[evenly(len(ids), most)]


def _accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Top-1 and balanced accuracy in percent."""
    hit = predicted == truth
    classes = np.unique(truth)
    top1 = 100 * float(hit.sum()) / len(hit)  # to the last bit that of a network with as many hits
    return top1, 100 * float(np.mean([hit[truth == c].mean() for c in classes]))
